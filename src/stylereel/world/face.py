"""The face: lines of eyes, brows and mouth (landmarks are on them), and what is painted along them on the skin.

Distances are signed and in face coordinates (dm), so edges are clean at any size.
"""

from __future__ import annotations

import math

from numba import njit

from stylereel.world import hair
from stylereel.world.factors import INDEX
from stylereel.world.geometry import bump, smoothstep, wave
from stylereel.world.materials import (
    BEARD_REGION,
    BROW_REGION,
    EYE_REGION,
    HAIR,
    HAIR_REGION,
    IRIS,
    LIGHT,
    LIP,
    LIPS_REGION,
    MAKEUP,
    MOUTH_REGION,
    SKIN,
    SKIN_REGION,
    cover,
    mix,
    noise,
)

(JAW, SMILE, PUCKER, PRESS, BROW_LEFT, BROW_RIGHT, BLINK_LEFT, BLINK_RIGHT, GAZE_X, GAZE_Y) = (
    INDEX[n]
    for n in (
        *("jaw", "smile", "pucker", "press", "brow_left", "brow_right"),
        *("blink_left", "blink_right", "gaze_x", "gaze_y"),
    )
)
FUNNEL, SMILE_SIDE, CHEEK, JAW_SIDE = (INDEX[n] for n in ("funnel", "smile_side", "cheek", "jaw_side"))
EYE_DISTANCE, EYE_SIZE, EYE_TILT, NOSE_LENGTH, NOSE_WIDTH, MOUTH_WIDTH, LIPS, EYELID, NOSE_TIP = (
    INDEX[n]
    for n in (
        *("eye_distance", "eye_size", "eye_tilt", "nose_length", "nose_width"),
        *("mouth_width", "lip_fullness", "eyelid", "nose_tip"),
    )
)
BROW_THICKNESS, BROW_HEIGHT, BROW_ARCH, AGE, BEARD, MOUSTACHE, FRECKLES = (
    INDEX[n] for n in ("brow_thickness", "brow_height", "brow_arch", "age", "beard", "moustache", "freckles")
)


@njit(cache=True, fastmath=True, error_model="numpy")
def eye_lines(s, side, v):
    """Upper lid, lower lid and crease heights [dm, relative to the eye centre] at s in -1..1 (outwards positive)."""
    blink = v[BLINK_LEFT] if side > 0 else v[BLINK_RIGHT]
    brow = v[BROW_LEFT] if side > 0 else v[BROW_RIGHT]
    size = 1.0 + 0.20 * v[EYE_SIZE]
    f = max(0.0, 1.0 - s * s)
    # The lower lid follows the cheek, of a smile or raised; the upper lid follows the gaze.
    raised = max(0.0, v[CHEEK])
    high = 0.096 * size * (1.0 + 0.12 * brow - 0.12 * v[AGE] - 0.22 * v[GAZE_Y] - 0.22 * raised)
    high *= f ** (0.62 + 0.10 * s)
    low = 0.058 * size * (1.0 - 0.30 * max(0.0, v[SMILE])) * (1.0 - 0.55 * raised) * f ** (0.85 - 0.15 * s)
    # The gap closes in proportion; a narrow one, which people and readers take for a shut eye, lasts a little longer.
    blink -= 0.06 * smoothstep(0.60, 0.82, blink) * smoothstep(1.0, 0.88, blink)
    upper = -high * (1.0 - blink) + 0.70 * low * blink
    lower = low * (1.0 - 0.30 * blink)
    crease = -0.096 * size * f**0.6 * (1.0 - 0.45 * blink) - 0.048 + 0.024 * v[EYELID] - 0.012 * brow
    return upper, lower, crease


@njit(cache=True, fastmath=True, error_model="numpy")
def eye_frame(side, v):
    """Centre x, half width [dm] and slope of an eye."""
    return (
        side * 0.325 * (1.0 + 0.09 * v[EYE_DISTANCE]),
        0.178 * (1.0 + 0.09 * v[EYE_SIZE]),
        -0.10 + 0.13 * -v[EYE_TILT],
    )


@njit(cache=True, fastmath=True, error_model="numpy")
def brow_line(t, side, v):
    """Height y and half thickness [dm] of a brow at t in 0 (inner end) .. 1 (outer end)."""
    raised = v[BROW_LEFT] if side > 0 else v[BROW_RIGHT]
    y = -0.205 - 0.035 * v[BROW_HEIGHT] - (0.075 + 0.035 * v[BROW_ARCH]) * math.sin(min(t * 1.35, 1.55)) + 0.085 * t * t
    y -= 0.085 * raised if raised > 0 else 0.045 * raised * (1.3 - 0.8 * t)
    half = 0.040 * (1.0 + 0.45 * v[BROW_THICKNESS]) * (0.75 + 0.6 * t - 1.15 * t * t)
    return y, half


@njit(cache=True, fastmath=True, error_model="numpy")
def mouth_frame(v):
    """Half width, middle x, centre height and opening [dm] of the mouth."""
    smile, pucker, funnel = v[SMILE], v[PUCKER], v[FUNNEL]
    half = 1.0 + 0.17 * smile - 0.36 * pucker - 0.40 * funnel * (1.0 - 0.6 * pucker) - 0.10 * v[JAW]
    half *= 0.255 * (1.0 + 0.11 * v[MOUTH_WIDTH])
    # The lips part a little as soon as the jaw leaves its rest.
    opening = (0.28 * v[JAW] + 0.025 * smoothstep(0.0, 0.10, v[JAW])) * (1.0 - 0.35 * pucker) + 0.075 * funnel * (
        1.0 - 0.6 * pucker
    )
    opening *= 1.0 - 0.7 * v[PRESS]
    return half, 0.065 * v[JAW_SIDE] + 0.018 * v[SMILE_SIDE], 0.66, opening


@njit(cache=True, fastmath=True, error_model="numpy")
def mouth_lines(s, v):
    """Outer upper, inner upper, inner lower, outer lower lip heights y [dm] at s in -1..1 across the mouth."""
    _, _, centre, opening = mouth_frame(v)
    f = max(0.0, 1.0 - s * s)
    smile, funnel = v[SMILE], v[FUNNEL]
    wide = min(1.0, opening / 0.22)
    y = centre - (0.085 * smile + 0.014) * (s * s - 0.35) - 0.050 * v[SMILE_SIDE] * s * abs(s)
    y += 0.012 * math.cos(s * 6.0) * (1.0 - abs(s)) * (1.0 - 0.8 * funnel)
    gap = opening * f ** (0.62 - 0.12 * wide - 0.10 * funnel)
    thick = (1.0 + 0.42 * v[LIPS]) * (1.0 - 0.78 * v[PRESS]) * (1.0 + 0.40 * v[PUCKER]) * (1.0 + 0.22 * funnel)
    thick *= 1.0 - 0.18 * max(0.0, smile)
    bow = 1.0 - 0.26 * math.exp(-((s / 0.14) ** 2)) + 0.10 * math.exp(-(((abs(s) - 0.3) / 0.16) ** 2))
    share = 0.10 + 0.20 * funnel
    upper = y - share * gap
    lower = y + (1.0 - share) * gap
    # Lips around an opening keep their thickness towards the corners.
    around = 0.20 * max(wide, funnel)
    return (
        upper - 0.070 * thick * f ** (0.75 - around) * bow,
        upper,
        lower,
        lower + 0.092 * thick * f ** (0.62 - 0.6 * around),
    )


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_skin(x, y, z, rest, aa, scene):
    """Skin of the front of the face: blood, freckles, folds, wrinkles, nostrils."""
    v, out = scene.v, scene.out
    ax = abs(x)
    age, smile = v[AGE], max(0.0, v[SMILE])
    eye_x = 0.325 * (1.0 + 0.09 * v[EYE_DISTANCE])
    tip = 0.40 * (1.0 + 0.13 * v[NOSE_LENGTH])
    wide = 1.0 + 0.22 * v[NOSE_WIDTH]
    flush = (0.50 + 0.3 * v[MAKEUP]) * bump(ax, rest, 0.42, 0.30, 0.20, 0.15) + 0.55 * bump(
        x, rest, 0.0, tip, 0.13, 0.10
    )
    out[1] *= 1.0 - 0.17 * flush
    out[2] *= 1.0 - 0.16 * flush
    # Thin skin around the eyes.
    thin = bump(ax, y, eye_x, 0.03, 0.24, 0.16)
    out[0] *= 1.0 - 0.07 * thin
    out[1] *= 1.0 - 0.13 * thin
    out[2] *= 1.0 - 0.10 * thin
    if v[FRECKLES] > 0.05:
        spots = smoothstep(0.66, 0.80, noise(1, x * 80.0 + 5.0, rest * 80.0))
        amount = 0.42 * v[FRECKLES] * spots * bump(ax, rest, 0.28, 0.22, 0.34, 0.22)
        mix(out, out[0] * 0.62, out[1] * 0.48, out[2] * 0.40, amount)
    occlusion = out[7]
    if y < 0.30:
        # Sockets, sides of the nose, bags under the eyes.
        occlusion -= 0.30 * bump(ax, y, eye_x - 0.10, -0.085, 0.17, 0.065)
        occlusion -= 0.16 * bump(ax, y, 0.150, 0.03, 0.055, 0.12)
        bag = 0.10 + 0.30 * max(0.0, age - 0.3)
        line = (y - 0.135 - 0.03 * (1.0 - ((ax - eye_x) / 0.2) ** 2)) / 0.028
        near = bump(ax, y, eye_x - 0.02, 0.15, 0.17, 0.06)
        out[4] += 0.9 * bag * line * near
        occlusion -= 0.5 * bag * near * math.exp(-line * line)
        if age > 0.40:
            deep = (age - 0.40) / 0.6
            if rest < -0.15:
                # Lines of the forehead bend the light.
                phase = (rest + 0.05 * bump(x, 0.0, 0.0, 0.0, 0.25, 1.0) + 0.012 * wave(9.0 * x + 1.0)) * 52.0
                shape = deep * bump(x, rest, 0.0, -0.48, 0.46, 0.14)
                out[4] += 0.42 * shape * wave(phase)
                occlusion -= 0.16 * shape * max(0.0, wave(phase + 1.5708)) ** 2
            # Crow's feet.
            cx, cy = ax - eye_x - 0.13, y - 0.01
            r = math.hypot(cx, cy)
            if r < 0.24 and cx > 0.0:
                fan = wave(math.atan2(cy, cx) * 8.0 + 0.6)
                feet = (deep + 0.4 * smile * deep) * smoothstep(0.04, 0.09, r) * smoothstep(0.22, 0.12, r)
                out[4] += 0.35 * feet * fan
                occlusion -= 0.13 * feet * max(0.0, fan)
    else:
        half, middle, centre, opening = mouth_frame(v)
        side = 1.0 if x > middle else -1.0
        from_middle = side * (x - middle)
        smile = max(0.0, v[SMILE] + 0.6 * side * v[SMILE_SIDE])
        chin_x = x - 0.12 * v[JAW_SIDE] * smoothstep(0.50, 0.95, rest)
        # Below the nose and the lower lip; the groove between nose and mouth.
        occlusion -= 0.34 * bump(x, rest, 0.0, tip + 0.125, 0.16, 0.040)
        chin = centre + 0.90 * opening + 0.107 + 0.035 * v[LIPS]
        occlusion -= 0.24 * bump(x, y, middle, chin + 0.045, 0.16, 0.040)
        out[3] += 0.35 * (x / 0.03) * bump(x, rest, 0.0, 0.545, 0.045, 0.045)
        # Fold from nose to mouth: the cheek rolls over it.
        t = (y - tip - 0.02) / (centre + 0.06 - tip)
        if -0.1 < t < 1.25:
            wing = 0.175 * wide
            fold_x = wing + (half + 0.085 - wing) * max(0.0, t)
            strength = (0.07 + 0.34 * age * age + 0.34 * smile) * smoothstep(-0.1, 0.2, t) * smoothstep(1.25, 0.8, t)
            d = (from_middle - fold_x) / 0.045
            shape = math.exp(-d * d)
            occlusion -= 0.75 * strength * math.exp(-2.0 * d * d)
            out[3] -= side * 0.9 * strength * (d + 0.4) * shape
        # Corners of the mouth press into the cheek.
        corner = centre - 0.06 * v[SMILE] - 0.05 * side * v[SMILE_SIDE]
        occlusion -= (0.16 + 0.20 * smile) * bump(from_middle, y, half + 0.015, corner, 0.035, 0.035)
        occlusion -= (0.10 + 0.20 * age) * bump(from_middle, y, half + 0.03, centre + 0.14, 0.035, 0.10) * age
        # Dimple of the chin.
        out[4] += 0.25 * ((rest - 0.86) / 0.05) * bump(chin_x, rest, 0.0, 0.86, 0.14, 0.05)
    # Wings of the nose and nostrils.
    if tip - 0.15 < rest < tip + 0.20 and ax < 0.30:
        occlusion -= 0.32 * bump(ax, rest, 0.187 * wide, tip + 0.02, 0.020, 0.055)
        wing = 0.082 * wide
        up = 0.010 * v[NOSE_TIP]
        hole = ((ax - wing) / 0.050) ** 2 + (
            (rest - tip - 0.078 + up + 0.22 * (ax - wing)) / (0.022 + 0.006 * v[NOSE_TIP])
        ) ** 2
        dark = 0.86 * smoothstep(1.8, 0.3, hole)
        mix(out, out[0] * 0.14, out[1] * 0.06, out[2] * 0.05, dark)
        out[5] *= 1.0 - dark
        # A small sharp light on the tip.
        out[5] += 0.14 * bump(x, rest, 0.0, tip - 0.03, 0.07, 0.06)
    out[7] = occlusion


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_beard(x, y, z, rest, theta, scene):
    """Stubble to full beard and moustache, in locks that fall with the jaw; returns how much of the skin is covered."""
    v, p, out = scene.v, scene.p, scene.out
    ax = abs(x)
    half, middle, _, _ = mouth_frame(v)
    upper_lip, _, _, lower_lip = mouth_lines(max(-1.0, min(1.0, (x - middle) / half)) * 0.98, v)
    from_middle = abs(x - middle)
    # From the sideburn along the cheek to the corner of the mouth, and down the throat.
    around = abs(theta)
    edge = 0.66 - 0.14 * smoothstep(0.30, 0.75, around) - 0.50 * smoothstep(0.80, 1.36, around)
    beard = smoothstep(edge - 0.09, edge + 0.11, rest) * smoothstep(1.62, 1.40, around)
    away = math.hypot(
        max(0.0, from_middle - half * 0.80),
        max(0.0, abs(y - 0.5 * (upper_lip + lower_lip)) - 0.5 * (lower_lip - upper_lip)),
    )
    beard *= smoothstep(0.012, 0.075, away)
    high = 0.44 + 0.25 * max(0.0, ax - 0.05)
    between = smoothstep(high, high + 0.055, rest) * smoothstep(upper_lip + 0.004, upper_lip - 0.03, y)
    between *= smoothstep(half + 0.10, half + 0.02, from_middle) if z > 0.15 else 0.0
    beard *= v[BEARD] * (1.0 - between)
    tache = max(v[MOUSTACHE], 0.8 * v[BEARD]) * between * smoothstep(-0.02, 0.03, ax)
    density = max(beard, tache)
    if density < 0.01:
        return 0.0
    swing = tache / (beard + tache + 1e-6)
    q = (1.0 - swing) * (theta * 6.5 + 0.35 * wave(7.0 * rest + 3.0 * theta)) + swing * (ax * 9.0 + y * 5.0)
    section = hair.lock(q)
    fine = noise(1, theta * 60.0, rest * 22.0)
    amount = min(0.95, smoothstep(0.0, 0.85, density) * (0.80 + 0.30 * section * density + 0.25 * (fine - 0.5)))
    # Stubble lets the skin through.
    amount *= 0.42 + 0.58 * smoothstep(0.25, 0.70, density)
    tone = 0.74 + 0.26 * section + 0.30 * (fine - 0.5)
    mix(out, p[HAIR, 0] * tone, p[HAIR, 1] * tone, p[HAIR, 2] * tone, amount)
    full = smoothstep(0.5, 0.9, density)
    u = q - math.floor(q)
    out[3] += (1.0 - swing) * full * 0.55 * (u - 0.5) * section
    out[7] -= 0.16 * full * (1.0 - section)
    out[5] *= 1.0 - 0.6 * amount
    return amount


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_brow(ax, y, side, aa, scene):
    """A brow of hairs that lean outwards; returns its coverage."""
    v, p, out = scene.v, scene.p, scene.out
    inner = 0.105 + 0.05 * v[EYE_DISTANCE] * 0.5
    t = (ax - inner) / 0.47
    if t < -0.08 or t > 1.08:
        return 0.0
    middle, half = brow_line(min(1.0, max(0.0, t)), side, v)
    strands = hair.lock(ax * 17.0 + (y - middle) * (9.0 + 7.0 * smoothstep(0.4, 0.9, t)) + 0.4 * wave(ax * 31.0))
    distance = abs(y - middle) - half * (0.88 + 0.20 * strands)
    distance = max(distance, max(-t, t - 1.0) * 0.47)
    amount = cover(distance, aa + 0.016) * (0.84 + 0.16 * strands) * (0.72 + 0.28 * smoothstep(0.0, 0.2, t)) * 0.94
    tone = 0.50 + 0.16 * strands
    mix(out, p[HAIR, 0] * tone, p[HAIR, 1] * tone, p[HAIR, 2] * tone, amount)
    out[5] *= 1.0 - amount
    return amount


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_eye(x, y, side, aa, scene):
    """Lids, lashes and the eyeball; returns the coverage of the open eye."""
    v, p, out = scene.v, scene.p, scene.out
    cx, half, slope = eye_frame(side, v)
    dx = (x - cx) * side
    dy = y - 0.012 - slope * dx
    s = dx / half
    if abs(s) > 1.35:
        return 0.0
    upper, lower, crease = eye_lines(max(-1.0, min(1.0, s)), side, v)
    blink = v[BLINK_LEFT] if side > 0 else v[BLINK_RIGHT]
    ends = (abs(s) - 1.0) * half * 0.5
    inside = cover(max(max(upper - dy, dy - lower), ends), aa)
    fade = smoothstep(1.28, 0.85, abs(s))
    # The upper lid is a rolled edge of skin: dark crease, light roll.
    line = (dy - crease) / (0.013 + aa * 0.5)
    out[7] -= (0.42 - 0.12 * v[EYELID]) * math.exp(-line * line) * fade
    if crease - 0.05 < dy < upper:
        t = (dy - crease) / (upper - crease + 1e-3)
        lid = fade * smoothstep(-0.2, 0.2, t)
        mix(out, out[0] * 0.93, out[1] * 0.84, out[2] * 0.82, 0.6 * lid)
        mix(out, out[0] * 0.55, out[1] * 0.38, out[2] * 0.42, 0.75 * v[MAKEUP] * lid)
        out[4] += 0.55 * lid * (t - 0.55)
        out[5] += 0.10 * lid
    under = (dy - lower) / 0.030
    if 0.0 < under < 1.6:
        # The lower lid has thickness, moist where it meets the eye.
        out[4] += 0.30 * fade * (under - 0.8)
        mix(out, out[0] * 0.95, out[1] * 0.74, out[2] * 0.70, 0.6 * fade * smoothstep(0.7, 0.0, under))
    if inside > 0.0:
        r_eye = s * s
        # The white: rosy in the corners, darker where it turns away.
        white = 0.84 * (1.0 - 0.30 * r_eye)
        er, eg, eb = white, white * (0.965 - 0.10 * r_eye), white * (0.95 - 0.12 * r_eye)
        ix = dx - side * v[GAZE_X] * 0.074
        iy = (y - 0.012) + 0.012 - v[GAZE_Y] * 0.048
        r = math.sqrt(ix * ix + iy * iy)
        radius = 0.088
        iris = cover(r - radius, aa + 0.004)
        if iris > 0.0:
            # Light gathers opposite to the lamp; a dark limbal ring; fibres.
            a = math.atan2(iy, ix)
            spokes = 0.88 + 0.12 * wave(11.0 * a) + 0.08 * wave(17.0 * a + 1.0)
            depth = 0.62 + 0.85 * smoothstep(-0.06, 0.075, iy - 0.4 * ix * side * p[LIGHT, 0])
            ring = 1.0 - 0.75 * smoothstep(radius * 0.72, radius * 1.0, r)
            inner = 1.0 + 0.35 * smoothstep(0.062, 0.040, r)
            tone = spokes * depth * ring * inner * 1.15
            ir, ig, ib = p[IRIS, 0] * tone, p[IRIS, 1] * tone, p[IRIS, 2] * tone
            pupil = cover(r - 0.037, aa + 0.003)
            ir, ig, ib = ir + (0.006 - ir) * pupil, ig + (0.006 - ig) * pupil, ib + (0.007 - ib) * pupil
            er, eg, eb = er + (ir - er) * iris, eg + (ig - eg) * iris, eb + (ib - eb) * iris
        # The lid throws a soft shadow on the ball.
        shadow = 0.38 + 0.62 * smoothstep(-0.005, 0.062 * min(1.0, 0.15 + 7.0 * (lower - upper)), dy - upper)
        er, eg, eb = er * shadow, eg * shadow, eb * shadow
        # Two lights: the lamp, and a soft answer below; the moist edge of the lower lid; the tear corner.
        spark_x = ix * side - 0.036 * p[LIGHT, 0] / (abs(p[LIGHT, 0]) + 0.15)
        spark = cover(math.hypot(spark_x, iy + 0.034) - 0.0195, aa) * (1.0 - blink)
        answer = 0.16 * bump(spark_x, iy, -0.030, 0.040, 0.022, 0.016) * (1.0 - blink)
        wet = 0.45 * cover(abs(dy - lower + 0.010) - 0.005, aa) * smoothstep(1.0, 0.5, abs(s)) * (1.0 - blink)
        er, eg, eb = er + answer, eg + answer, eb + answer
        er, eg, eb = er + (0.90 - er) * wet, eg + (0.74 - eg) * wet, eb + (0.70 - eb) * wet
        tear = 0.75 * smoothstep(-0.76, -0.95, s)
        er, eg, eb = er + (0.62 - er) * tear, eg + (0.30 - eg) * tear, eb + (0.28 - eb) * tear
        er, eg, eb = er + (1.7 - er) * spark, eg + (1.7 - eg) * spark, eb + (1.7 - eb) * spark
        mix(out, er, eg, eb, inside)
        out[7] += (1.0 - out[7]) * inside
        out[5] *= 1.0 - inside
        out[3] = out[3] * (1.0 - inside) + inside * 0.35 * s * side
        out[4] *= 1.0 - inside
    # Lashes: a dark edge of the upper lid that sweeps out at the outer corner; a faint one below. Seen from in front
    # they look shorter as the lid comes down.
    thick = (0.013 + 0.008 * smoothstep(-0.7, 1.0, s) + 0.006 * v[MAKEUP]) * (1.0 - 0.25 * blink)
    wing = smoothstep(0.72, 1.0, s) * (0.014 + 0.020 * v[MAKEUP])
    lash = cover(
        max(
            abs(dy - upper + (0.4 - 0.2 * blink) * thick + wing * smoothstep(0.85, 1.25, s)) - thick,
            (abs(s) - 1.0) * half - 0.6 * wing - 0.006,
        ),
        aa,
    )
    mix(out, 0.020, 0.013, 0.011, lash * (0.90 if s > -0.85 else 0.55))
    out[5] *= 1.0 - lash
    below = cover(max(abs(dy - lower - 0.004) - 0.005, ends), aa)
    mix(out, out[0] * 0.42, out[1] * 0.30, out[2] * 0.28, below * (0.45 + 0.3 * v[MAKEUP]))
    return inside


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_mouth(x, y, aa, scene):
    """Lips and what is behind them; returns the region or -1."""
    v, p, out = scene.v, scene.p, scene.out
    half, middle, _, opening = mouth_frame(v)
    x -= middle
    s = x / half
    if abs(s) > 1.25:
        return -1
    region = -1
    top, upper, lower, bottom = mouth_lines(max(-1.0, min(1.0, s)), v)
    ends = (abs(s) - 1.0) * half
    lips = cover(max(max(top - y, y - bottom), ends), aa + 0.010)
    if lips > 0.0:
        # The upper lip looks down, the lower one up: rounded by bending the light.
        if y < 0.5 * (upper + lower):
            t = (y - top) / (upper - top + 1e-3)
            tone, bend = 0.84 - 0.10 * t, 0.10 + 0.35 * t
        else:
            t = (y - lower) / (bottom - lower + 1e-3)
            tone, bend = 1.04, -0.45 + 0.95 * t
            # The edge of the lower lip, moist, catches the light that the darkness behind it swallows.
            tone *= 1.0 + 0.22 * smoothstep(0.0, 0.04, opening) * smoothstep(0.45, 0.0, t)
        lines = 1.0 + 0.05 * wave(x * 150.0 + 3.0 * wave(y * 20.0)) * smoothstep(1.0, 0.6, abs(s))
        tone *= lines * (1.0 - 0.12 * s * s)
        mix(out, p[LIP, 0] * tone, p[LIP, 1] * tone, p[LIP, 2] * tone, lips * (0.82 + 0.13 * v[MAKEUP]))
        out[4] += bend * lips
        out[5] += (0.34 + 0.30 * v[MAKEUP] - out[5]) * lips
        out[6] += (0.85 - out[6]) * lips
        out[7] += (1.0 - out[7]) * lips * 0.75
        if lips > 0.5:
            region = LIPS_REGION
    inner = cover(max(max(upper - y, y - lower), ends), aa)
    if inner > 0.0 and opening > 0.001:
        _paint_inside(x, s, y - upper, lower - y, opening, aa, scene, inner)
        if inner > 0.5:
            region = MOUTH_REGION
    # The line between closed lips and the corners.
    seam = math.exp(-(((y - upper) / (0.011 + 0.5 * aa)) ** 2)) * smoothstep(1.12, 0.96, abs(s))
    seam *= smoothstep(0.05, 0.0, opening) * 0.72 + 0.12
    mix(out, out[0] * 0.20, out[1] * 0.09, out[2] * 0.09, seam)
    return region


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint_inside(x, s, depth, height, opening, aa, scene, inner):
    """The inside of the mouth `depth` below the upper lip and `height` above the lower one [dm]: darkness, the tongue,
    and teeth as far as the lips bare them."""
    v, p, out = scene.v, scene.p, scene.out
    smile = max(0.0, v[SMILE])
    mr, mg, mb = 0.022, 0.006, 0.006
    # The lining of the lower lip and the tongue behind it catch light from in front; it fades inwards.
    near = smoothstep(0.050, 0.0, height) * smoothstep(0.05, 0.20, opening)
    mr, mg, mb = mr + 0.080 * near, mg + 0.018 * near, mb + 0.018 * near
    if opening > 0.05:
        tall = 0.42 * opening
        tongue = smoothstep(1.15, 0.60, math.hypot(x / 0.16, (height + 0.25 * tall) / tall))
        tongue *= smoothstep(0.05, 0.16, opening)
        groove = 1.0 - 0.25 * bump(x, 0.0, 0.0, 0.0, 0.018, 1.0)
        lit = (0.55 + 0.50 * bump(x, height, 0.03 * p[LIGHT, 0], 0.45 * tall, 0.09, 0.5 * tall)) * groove
        lit *= 0.55 + 0.45 * smoothstep(0.06, 0.26, opening)
        mr, mg, mb = mr + (0.36 * lit - mr) * tongue, mg + (0.10 * lit - mg) * tongue, mb + (0.105 * lit - mb) * tongue
    # Lower teeth: just their edge, behind the lower lip, in wide openings.
    bared = 0.034 * smoothstep(0.16, 0.28, opening) * (1.0 - 0.7 * v[FUNNEL])
    if bared > 0.002 and height < 0.06:
        low = cover(height - bared + 0.006 * hair.lock(x / 0.060 + 0.5), aa) * smoothstep(0.66, 0.46, abs(s))
        ivory = 0.34 + 0.08 * hair.lock(x / 0.060 + 0.5)
        mr, mg, mb = mr + (ivory - mr) * low, mg + (ivory * 0.92 - mg) * low, mb + (ivory * 0.80 - mb) * low
    # Upper teeth: hidden behind the lip until a wide opening or a smile bares them. Each one is rounded, the edge
    # scalloped, in the shade of the lip and of the corners.
    bared = 0.062 * smoothstep(0.15, 0.75, smile) + 0.056 * smoothstep(0.085, 0.24, opening)
    bared = min(0.078, bared) * (1.0 - 0.85 * v[FUNNEL]) * (1.0 - 0.85 * v[PUCKER])
    if bared > 0.002 and depth < bared + 0.02:
        section = hair.lock(x / 0.083)
        teeth = cover(depth - bared + 0.010 - 0.014 * section, aa) * smoothstep(0.97, 0.72, abs(s))
        teeth *= smoothstep(0.002, 0.016, bared)
        ivory = (0.74 - 0.40 * s * s) * (0.66 + 0.34 * smoothstep(0.0, 0.45, section))
        ivory *= 0.50 + 0.50 * smoothstep(-0.005, 0.055, depth)
        mr, mg, mb = mr + (ivory - mr) * teeth, mg + (ivory * 0.95 - mg) * teeth, mb + (ivory * 0.86 - mb) * teeth
    dim = 0.50 + 0.50 * smoothstep(-0.005, 0.045, depth)
    mix(out, mr * dim, mg * dim, mb * dim, inner)
    out[5] *= 1.0 - 0.97 * inner
    out[4] *= 1.0 - inner
    out[7] += (1.0 - out[7]) * inner


@njit(cache=True, fastmath=True, error_model="numpy")
def paint_face(x, y, z, rest, theta, border, aa, scene):
    """Paint the head at face point (x, y, z), rest height `rest` and azimuth `theta`; returns the region.

    `border` is the rest height of the hairline there, `aa` half a pixel in dm, `scene` the image's record
    (see `materials`).
    """
    v, p, cut, out = scene.v, scene.p, scene.cut, scene.out
    region = SKIN_REGION
    blotch = noise(0, x * 60.0 + 31.0, rest * 60.0)
    grain = noise(1, x * 110.0, rest * 110.0 + 17.0)
    tint = 1.0 + (0.10 + 0.08 * v[AGE]) * (blotch - 0.5) + 0.05 * (grain - 0.5)
    out[0], out[1], out[2] = p[SKIN, 0] * tint, p[SKIN, 1] * (2.0 * tint - 1.0 + 0.5 * (1.0 - tint)), p[SKIN, 2] * tint
    # Oil is on the middle of the face.
    out[5], out[6], out[7] = 0.11 + 0.06 * bump(x, rest, 0.0, -0.2, 0.45, 0.6) + 0.05 * (grain - 0.5), 0.25, 1.0
    # Under the chin and jaw little light comes in.
    out[7] -= 0.30 * smoothstep(0.98, 1.14, rest)
    front = z > 0.15
    if front:
        _paint_skin(x, y, z, rest, aa, scene)
    if rest > 0.0 and (v[BEARD] > 0.03 or v[MOUSTACHE] > 0.03) and _paint_beard(x, y, z, rest, theta, scene) > 0.5:
        region = BEARD_REGION
    ax = abs(x)
    side = 1.0 if x > 0 else -1.0
    if front and -0.48 < y < -0.05 and 0.03 < ax < 0.72 and _paint_brow(ax, y, side, aa, scene) > 0.45:
        region = BROW_REGION
    if front and -0.30 < y < 0.24 and 0.05 < ax < 0.66 and _paint_eye(x, y, side, aa, scene) > 0.5:
        region = EYE_REGION
    if front and 0.40 < y < 1.20 and ax < 0.45:
        found = _paint_mouth(x, y, aa, scene)
        if found >= 0:
            region = found
    # Hair roots on the scalp, and the shade of the hair on the skin. (The middle of the face is far from any.)
    if rest < -0.10 or abs(theta) > 0.7:
        edge = border - 0.04 * smoothstep(0.10, 0.0, cut[hair.FRONT])
        if rest < edge + 0.22:
            density = hair.roots(theta, rest, v, cut)
            strands = hair.lock(theta * 7.0 + 0.5 * wave(5.0 * rest + 6.0 * theta))
            inside = edge - rest + 0.028 * (strands - 0.6)
            amount = density * smoothstep(-0.06, 0.08, inside)
            out[7] -= 0.22 * density * smoothstep(-0.20, 0.0, inside) * (1.0 - amount)
            if amount > 0.0:
                tone = 0.75 + 0.20 * strands
                mix(out, p[HAIR, 0] * tone, p[HAIR, 1] * tone, p[HAIR, 2] * tone, amount)
                out[5] *= 1.0 - 0.7 * amount
                if amount > 0.5:
                    region = HAIR_REGION
    out[7] = max(0.22, out[7])
    return region
