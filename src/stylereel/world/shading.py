"""The look of a point of the image: what each part is painted with, and how light and shadow fall on it."""

from __future__ import annotations

import math

from numba import njit

from stylereel.world import geometry as g
from stylereel.world import hair
from stylereel.world.face import paint_face
from stylereel.world.factors import INDEX
from stylereel.world.geometry import bump, smoothstep, wave
from stylereel.world.materials import (
    ACCENT,
    AMBIENT,
    CLOTH,
    CLOTH_2,
    CLOTHES_REGION,
    EAR_REGION,
    EARRING_REGION,
    FLOW,
    GLASSES_REGION,
    HAIR,
    HAIR_REGION,
    HALF,
    HAT_REGION,
    KEY,
    LIGHT,
    NECK_REGION,
    REGIONS,
    RIM,
    SKIN,
    TURN,
    cover,
    mix,
    noise,
    palette,
)

__all__ = ["REGIONS", "lens", "palette", "shade"]

_NECKLINE, _PATTERN, _AGE = INDEX["neckline"], INDEX["clothes_pattern"], INDEX["age"]
_GLASSES, _TINT, _EYE_DISTANCE = INDEX["glasses"], INDEX["glasses_tint"], INDEX["eye_distance"]


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_hair(part, y, t, theta, q, seen, scene):
    """Locks: broad rounded stripes with a finer one inside; dark in the grooves, at the roots and behind the neck.

    seen: 1 where locks are wide enough to be told apart, 0 at the outline, where only their mean is seen.
    """
    p, cut, out = scene.p, scene.cut, scene.out
    section = 0.66 + seen * (hair.lock(q) - 0.66)
    fine = 0.66 + seen * (hair.lock(q * 3.0 + 0.7 * wave(3.0 * t + q)) - 0.66)
    curls = cut[hair.CURLS]
    tone = 0.72 + 0.26 * section + 0.14 * (fine - 0.6) + 0.12 * wave(1.7 * q + 0.6)
    if curls > 0.02:
        # Curls: a pattern of rings instead of stripes.
        rings = wave(8.0 * theta + 2.0 * wave(9.0 * y)) * wave(9.0 * y + 1.5 * wave(7.0 * theta))
        tone += curls * (0.80 + 0.34 * rings + 0.12 * (fine - 0.6) - tone)
        out[4] += 0.35 * curls * wave(1.5708 + 9.0 * y + 1.5 * wave(7.0 * theta))
    u = q - math.floor(q)
    out[3] = 0.55 * (u - 0.5) * section * (1.0 - curls)
    out[0], out[1], out[2] = p[HAIR, 0] * tone, p[HAIR, 1] * tone, p[HAIR, 2] * tone
    out[5], out[6] = (0.30 + 0.30 * section) * (1.0 - 0.6 * curls), 0.5
    if part == g.HAIR:
        out[7] = 0.72 + 0.28 * smoothstep(1.0, 0.6, t)
        # Fine hair at the border lets the skin through.
        if cut[hair.FRONT] < 0.25:
            thin = (
                smoothstep(0.90 - 0.05 * section, 1.02, t)
                * (0.85 - 0.5 * section)
                * smoothstep(0.25, 0.05, cut[hair.FRONT])
                * smoothstep(0.22, 0.15, cut[hair.TOP])
            )
            mix(out, p[SKIN, 0], p[SKIN, 1], p[SKIN, 2], thin * smoothstep(0.9, 0.55, abs(theta)))
    elif part == g.CURTAIN:
        out[7] = 0.78 - 0.34 * smoothstep(0.1, 0.5, t) * smoothstep(1.35, 0.8, abs(theta - math.pi))
    else:
        out[7] = 0.80


@njit(cache=True, fastmath=True, error_model="numpy")
def _neckline(x, y, z, v):
    """Signed distance [dm] of the edge of the clothes (positive: cloth), and the width of its trim."""
    low, share = hair.bins(v[_NECKLINE], 4, 0.14)
    place = low + share  # 0 crew neck, 1 V, 2 shirt, 3 roll neck
    vee = smoothstep(0.0, 1.0, place) * smoothstep(3.0, 2.4, place)
    shirt = max(0.0, 1.0 - abs(place - 2.0))
    roll = max(0.0, place - 2.0)
    drop = 0.36 + 0.36 * vee - 0.14 * shirt - 0.42 * roll
    ax = abs(x) / 0.68
    curve = (1.0 - vee) * (1.0 - ax * ax) + vee * (1.0 - ax)
    distance = (y - 1.34 + 0.30 * roll - drop * curve) / math.sqrt(1.0 + (drop * 1.3) ** 2)
    distance = max(distance, -0.12 - z)  # the far side of the shoulders is covered
    return distance, 0.055 + 0.16 * shirt * smoothstep(0.75, 0.2, ax) + 0.02 * vee * (1.0 - shirt), shirt


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_clothes(x, y, z, aa, scene):
    """Cloth with folds and a pattern, its trim or collar, and the skin inside the neckline; returns the region."""
    v, p, out = scene.v, scene.p, scene.out
    # Folds run from the shoulders to the breast.
    ax = abs(x)
    phase = 6.5 * ax - 3.6 * y + 1.4 * wave(2.2 * y + 1.9 * x) + (0.9 if x > 0 else 0.0) * smoothstep(0.0, 0.4, ax)
    weight = smoothstep(0.35, 1.0, ax)
    out[3] = 0.30 * weight * wave(phase + 1.5708) * (1.0 if x > 0 else -1.0)
    out[4] = -0.18 * weight * wave(phase + 1.5708)
    tone = 1.0 - 0.10 * weight * (0.5 - 0.5 * wave(phase))
    kind, share = hair.bins(v[_PATTERN], 4, 0.14)
    place = kind + share  # 0 plain, 1 striped, 2 knitted, 3 checked
    stripes = max(0.0, 1.0 - abs(place - 1.0))
    knit = max(0.0, 1.0 - abs(place - 2.0))
    checks = max(0.0, place - 2.0)
    out[0], out[1], out[2] = p[CLOTH, 0] * tone, p[CLOTH, 1] * tone, p[CLOTH, 2] * tone
    if stripes + checks > 0.0:
        across, down = wave(1.5708 + x * 15.0), wave(1.5708 + (y - 0.10 * ax) * 17.0)
        soft = max(0.15, 17.0 * aa)
        second = stripes * smoothstep(-soft, soft, down - 0.1) + 0.42 * checks * (
            smoothstep(-soft, soft, down - 0.3) + smoothstep(-soft, soft, across - 0.3)
        )
        mix(out, p[CLOTH_2, 0] * tone, p[CLOTH_2, 1] * tone, p[CLOTH_2, 2] * tone, 0.85 * second)
    if knit > 0.0:
        out[3] += 0.30 * knit * wave(x * 42.0)
    out[5], out[6], out[7] = 0.03, 0.0, 0.95
    if y > 2.35 or ax > 0.9:
        return CLOTHES_REGION
    distance, band, shirt = _neckline(x, y, z, v)
    if distance < band + 0.12:
        # The trim (of a shirt: its collar) throws a little shade on the cloth below it.
        trim = cover(distance - band, aa + 0.004)
        out[7] -= 0.35 * smoothstep(band + 0.10, band, distance) * (1.0 - trim)
        light = 1.0 - shirt * 0.75
        mix(out, p[CLOTH, 0] * 1.25, p[CLOTH, 1] * 1.25, p[CLOTH, 2] * 1.25, trim * (1.0 - light))
        mix(out, p[CLOTH_2, 0], p[CLOTH_2, 1], p[CLOTH_2, 2], trim * light * 0.85)
        out[3] *= 1.0 - trim
        out[4] += trim * 0.5 * (distance / band - 0.5) * (1.0 - shirt)
        skin = cover(distance, aa + 0.004)
        if skin > 0.0:
            mix(out, p[SKIN, 0], p[SKIN, 1] * 0.97, p[SKIN, 2] * 0.95, skin)
            # Collar bones and the hollow between them.
            bone = (y - 1.60 + 0.16 * ax) / 0.045
            out[4] = skin * 0.40 * bone * math.exp(-bone * bone) * smoothstep(0.05, 0.16, ax)
            out[7] = (1.0 - skin) * out[7] + skin * (
                0.88 - 0.25 * bump(x, y, 0.0, 1.62, 0.07, 0.06) - 0.30 * smoothstep(-0.07, 0.0, distance)
            )
            out[5] = 0.06
            if skin > 0.5:
                return NECK_REGION
    return CLOTHES_REGION


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_worn(part, x, y, t, theta, place, aa, scene):
    """Hat, brim, earring or collar."""
    p, out = scene.p, scene.out
    if part == g.EARRING:
        out[0], out[1], out[2] = 0.62, 0.50 - 0.06 * p[ACCENT, 2], 0.22 + 0.5 * p[ACCENT, 2]
        out[5], out[6], out[7] = 1.3, 0.8, 0.95
        return EARRING_REGION
    beanie, brimmed = max(0.0, 1.0 - place), max(0.0, place - 1.0)
    cap = 1.0 - beanie - brimmed
    tone = 1.0
    if part == g.HAT:
        ribs = wave(theta * 44.0)
        out[3] = 0.35 * beanie * ribs
        tone = 1.0 - 0.12 * beanie * (0.5 - 0.5 * wave(1.5708 + theta * 44.0))
        tone *= 1.0 - 0.35 * beanie * math.exp(-(((t - 0.715) / 0.025) ** 2))
        # Seams of a cap, band of a brimmed hat.
        seam = abs(wave(3.0 * theta))
        tone *= 1.0 - 0.30 * cap * smoothstep(0.10, 0.0, seam) * smoothstep(0.05, 0.2, t)
        band = brimmed * smoothstep(0.76, 0.80, t)
        out[0], out[1], out[2] = p[ACCENT, 0] * tone, p[ACCENT, 1] * tone, p[ACCENT, 2] * tone
        mix(out, 0.03, 0.025, 0.025, band * 0.85)
        out[7] = 1.0 - 0.25 * smoothstep(0.9, 1.0, t)
    else:
        tone = 0.92 - 0.25 * smoothstep(0.3, 0.0, t)
        out[0], out[1], out[2] = p[ACCENT, 0] * tone, p[ACCENT, 1] * tone, p[ACCENT, 2] * tone
        out[7] = 0.95
    out[5], out[6] = 0.06, 0.0
    return HAT_REGION


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_ear(r, phi, scene):
    """Rim, fold, hollow and lobe of an ear."""
    p, out = scene.p, scene.out
    fore = 0.5 + 0.5 * wave(1.5708 + phi)
    lobe = smoothstep(0.55, 0.95, wave(phi))
    groove = math.exp(-(((r - 0.70) / 0.10) ** 2)) * (1.0 - lobe) * (1.0 - 0.6 * fore)
    hollow = smoothstep(0.46, 0.20, r) * (1.0 - 0.5 * lobe)
    out[0], out[1], out[2] = p[SKIN, 0], p[SKIN, 1] * 0.86, p[SKIN, 2] * 0.82
    out[5], out[6] = 0.12, 0.3
    out[7] = 0.95 - 0.42 * groove - 0.55 * hollow
    return EAR_REGION


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint(part, x, y, z, e0, e1, e2, nz, aa, scene):
    """Paint one point of any part, whose surface is tilted by `nz`; returns its region."""
    v, p, out = scene.v, scene.p, scene.out
    if part == g.HEAD:
        return paint_face(x, y, z, e0, e1, e2, aa, scene)
    if part == g.HAIR or part == g.CURTAIN or part == g.KNOT:
        _paint_hair(part, y, e0, e1, e2, smoothstep(0.05, 0.4, abs(nz)), scene)
        return HAIR_REGION
    if part == g.EAR:
        return _paint_ear(e0, e1, scene)
    if part == g.NECK:
        tint = 0.97 + 0.06 * noise(0, x * 60.0, y * 40.0)
        out[0], out[1], out[2] = p[SKIN, 0] * tint, p[SKIN, 1] * tint * 0.97, p[SKIN, 2] * tint * 0.95
        # Two muscles run from behind the ears to the hollow of the throat; rings come with age.
        d = (abs(x) - 0.34 + 0.36 * smoothstep(0.9, 1.7, y)) / 0.06
        out[3] = -0.30 * (1.0 if x > 0 else -1.0) * d * math.exp(-d * d) * smoothstep(0.9, 1.15, y)
        rings = wave((y + 0.10 * x * x) * 26.0) * v[_AGE] * v[_AGE]
        out[4] = 0.20 * rings
        out[5], out[6] = 0.05, 0.1
        out[7] = 0.50 + 0.46 * smoothstep(1.0, 1.45, y)
        return NECK_REGION
    if part == g.TORSO:
        # What lies along the view is drawn as wide as a pixel sees it.
        return _paint_clothes(x, y, z, aa / max(0.1, abs(nz)), scene)
    if part == g.COLLAR:
        shirt = smoothstep(0.54, 0.46, abs(v[_NECKLINE] - 0.62) + 0.35)
        tone = 1.12 + 0.10 * shirt
        out[0], out[1], out[2] = p[CLOTH, 0] * tone, p[CLOTH, 1] * tone, p[CLOTH, 2] * tone
        out[3] = 0.22 * (1.0 - shirt) * wave(e1 * 30.0)
        out[5], out[7] = 0.03, 0.70 + 0.30 * smoothstep(0.0, 0.3, e2)
        return CLOTHES_REGION
    if part == g.GLASSES:
        out[0], out[1], out[2] = (
            0.010 + 0.25 * p[ACCENT, 0] ** 2,
            0.008 + 0.20 * p[ACCENT, 1] ** 2,
            0.008 + 0.2 * p[ACCENT, 2] ** 2,
        )
        out[5], out[6] = 0.22, 0.3
        return GLASSES_REGION
    return _paint_worn(part, x, y, e0, e1, e2, aa, scene)


@njit(cache=True, fastmath=True, error_model="numpy")
def shade(part, place, normal, shadow, aa, scene):
    """Light (linear RGB in scene.out[0:3]) of a surface point; returns its region.

    place: (x, y, z) in head coordinates and the part's own three; normal: unit, camera; shadow: 1 where the key light
    arrives.
    """
    p, out = scene.p, scene.out
    x, y, z, e0, e1, e2 = place
    nx, ny, nz = normal
    out[3], out[4], out[5], out[6], out[7] = 0.0, 0.0, 0.1, 0.2, 1.0
    region = _paint(part, x, y, z, e0, e1, e2, nz, aa, scene)
    bx, by = out[3], out[4]
    if bx != 0.0 or by != 0.0:
        nx += p[TURN, 0] * bx + p[TURN, 1] * by
        ny += p[TURN + 1, 0] * bx + p[TURN + 1, 1] * by
        nz += p[TURN + 2, 0] * bx + p[TURN + 2, 1] * by
        norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-9)
        nx, ny, nz = nx * norm, ny * norm, nz * norm
    occlusion, gloss, sharp = out[7], out[5], out[6]
    facing = nx * p[LIGHT, 0] + ny * p[LIGHT, 1] + nz * p[LIGHT, 2]
    half = max(0.0, nx * p[HALF, 0] + ny * p[HALF, 1] + nz * p[HALF, 2])
    skin = part == g.HEAD or part == g.NECK or part == g.EAR or region == NECK_REGION
    hairy = part == g.HAIR or part == g.CURTAIN or part == g.KNOT
    if hairy:
        # Light on a bundle of strands (Kajiya and Kay 1989): bright across, along a band.
        along = nx * p[FLOW, 0] + ny * p[FLOW, 1] + nz * p[FLOW, 2]
        length = 1.0 - along * along
        shift = 0.10 * wave(1.7 * e2) - 0.12
        th = (p[FLOW, 0] * p[HALF, 0] + p[FLOW, 1] * p[HALF, 1] + p[FLOW, 2] * p[HALF, 2] - along * half) / math.sqrt(
            length + 0.02
        ) + shift
        band = max(0.0, 1.0 - th * th)
        band *= band
        band *= band
        band *= band
        spec = gloss * (0.25 * band + 0.55 * band * band) * smoothstep(-0.1, 0.6, facing) * (0.3 + 0.7 * shadow) * 0.75
    else:
        broad = half * half
        broad *= broad
        broad *= broad
        fine = broad * broad
        fine *= fine
        spec = gloss * ((1.0 - sharp) * broad * 0.55 + (0.35 + sharp) * fine) * (0.25 + 0.75 * shadow) * occlusion
    grazing = 1.0 - abs(nz)
    grazing *= grazing
    # A rim of light from behind, on the side away from the lamp.
    away = max(0.0, 0.45 - 0.9 * nx * p[LIGHT, 0] / (abs(p[LIGHT, 0]) + 0.25) - 0.35 * ny)
    rim = 0.55 * grazing * away * (0.4 + 0.6 * occlusion)
    sky = 0.80 - 0.34 * ny + 0.10 * nz
    for k in range(3):
        wrap = 0.18
        lit = shadow
        if skin:
            # Red light travels farther under the skin: a warm, soft edge of light and shadow.
            wrap = 0.42 - 0.11 * k
            lit = shadow + (1.0 - shadow) * shadow * (0.35 - 0.17 * k)
        diffuse = max(0.0, (facing + wrap) / (1.0 + wrap))
        bounce = 0.10 + 0.08 * max(0.0, ny)
        light = p[KEY, k] * diffuse * (0.16 + 0.84 * lit) * (0.40 + 0.60 * occlusion)
        light += (p[AMBIENT, k] * sky + bounce * (1.0 if k == 0 else 0.8)) * occlusion
        colour = out[k]
        out[k] = colour * light + (spec * p[KEY, k]) * (1.0 if not hairy else 0.16 + 0.9 * min(1.0, colour * 2.2))
        out[k] += rim * p[RIM, k] * (0.25 + 0.75 * colour)
    return region


@njit(cache=True, fastmath=True, error_model="numpy")
def lens(x, y, z, dx, dy, dz, depth, aa, scene):
    """Look through the glasses at a colour: tint and a reflection; returns how much of the lens covers it.

    The ray x + s d (head coordinates, d towards the viewer) starts at the visible surface; `depth` is how far in front
    of it the ray may meet a lens at most.
    """
    v, p, out = scene.v, scene.p, scene.out
    shape_x, shape_y, power, drop = g.lens_shape(v)
    eye = 0.325 * (1.0 + 0.09 * v[_EYE_DISTANCE]) + 0.01
    total = 0.0
    for which in range(2):
        side = -1.0 if which == 0 else 1.0
        # The plane z = LENS_Z - 0.1 (side x - 0.1).
        slope = dz + 0.10 * side * dx
        if slope < 0.05:
            continue
        s = (g.LENS_Z - 0.10 * (side * x - 0.1) - z) / slope
        if s < 0.03 or s > depth:
            continue
        px, py = x + s * dx, y + s * dy
        cy = (py - 0.035) / shape_y
        cx = (px - side * eye) / (shape_x * (1.0 - drop * max(-1.0, min(1.0, cy))))
        r = (abs(cx) ** (2.0 / power) + abs(cy) ** (2.0 / power)) ** (0.5 * power)
        inside = cover((r - 1.0) * min(shape_x, shape_y), aa)
        if inside <= 0.0:
            continue
        worn = inside * smoothstep(0.5, 0.6, v[_GLASSES])
        tint = smoothstep(0.45, 0.85, v[_TINT])
        grade = tint * (0.90 - 0.22 * smoothstep(-1.0, 1.0, cy))
        mix(out, 0.016 + 0.05 * p[ACCENT, 0], 0.015 + 0.04 * p[ACCENT, 1], 0.016 + 0.04 * p[ACCENT, 2], worn * grade)
        # A soft slanted reflection.
        band = smoothstep(0.22, 0.10, abs(cx * 0.8 + cy * 0.5 + 0.35)) + 0.6 * smoothstep(
            0.10, 0.02, abs(cx * 0.8 + cy * 0.5 - 0.05)
        )
        gleam = worn * (0.05 + 0.07 * tint) * band * smoothstep(0.9, 0.0, cy)
        mix(out, 1.0, 1.0, 1.0, gleam)
        total = max(total, worn * grade)
    return total
