"""Crops that keep still, their inverses, and pasting them back, against the truth of the built-in world."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from stylereel import world
from stylereel.faces import placement, pose, registration
from stylereel.faces.paste import Head, fill, paste, seam
from stylereel.faces.placement import to_crop
from stylereel.generator import StyleGAN3, StyleGAN3Config
from stylereel.metrics.motion import crop_jitter
from stylereel.world.factors import INDEX, LATENT_DIM
from stylereel.world.shading import REGIONS

RATE = Fraction(25)
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def person(**factors: float) -> np.ndarray:
    """Values of one person who looks at the camera."""
    values = world.from_latent(np.random.default_rng(11).standard_normal(LATENT_DIM))
    for name, value in {"yaw": 0, "pitch": 0, "roll": 0, **factors}.items():
        values[INDEX[name]] = value
    return values


def filmed(rows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """A person who only speaks and frowns, through a camera that moves as the rows [T, 4] say; noisy landmarks."""
    frames, landmarks = [], []
    for index, row in enumerate(rows):
        drawn = world.draw(person(jaw=0.5 - 0.5 * np.cos(index), brow_left=0.5 * np.sin(index)), 400)
        frames.append(placement.cut(drawn.image, row, 320))
        landmarks.append(placement.to_crop(drawn.landmarks * 400, row) * 320)
    noise = np.random.default_rng(0).normal(0, 0.7, (len(rows), 68, 2))
    return frames, np.stack(landmarks) + noise


def talking(num_frames: int = 40) -> np.ndarray:
    """Noisy landmarks [T, 68, 2] of a still head, mouth opening and closing."""
    seen = [world.project_landmarks(person(jaw=0.5 - 0.5 * np.cos(i / 2)))[0] * 400 for i in range(num_frames)]
    return np.stack(seen) + np.random.default_rng(1).normal(0, 0.5, (num_frames, 68, 2))


def test_ffhq_crop_is_the_published_rectangle() -> None:
    landmarks = np.zeros((1, 68, 2))
    landmarks[:, 36:42], landmarks[:, 42:48] = (-30, 0), (30, 0)
    landmarks[:, 48], landmarks[:, 54] = (-20, 80), (20, 80)
    row = placement.place_ffhq(landmarks)[0]
    # Eyes 60 apart, mouth 80 below: half sides max(2 * 60, 1.8 * 80) = 144, centre a tenth of the way to the mouth.
    np.testing.assert_allclose(row, (0, 8, 288, 0), atol=1e-4)
    turned = landmarks @ np.array([[0.0, 1.0], [-1.0, 0.0]])  # a quarter clockwise
    np.testing.assert_allclose(placement.place_ffhq(turned)[0], (-8, 0, 288, 90), atol=1e-4)


def test_crop_by_eyes_ignores_the_mouth_and_agrees_with_ffhq_at_rest() -> None:
    landmarks = (pose.mean_head()[None, :, :2] * 90 + 200).repeat(3, axis=0)
    by_eyes = placement.place_by_eyes(landmarks, RATE)
    np.testing.assert_allclose(by_eyes, placement.place_ffhq(landmarks), atol=0.02 * by_eyes[0, 2])
    landmarks[1, 48:] += (0, 40)
    np.testing.assert_array_equal(placement.place_by_eyes(landmarks, RATE), by_eyes)


def test_beyond_the_edge_is_its_outermost_pixel_or_a_level() -> None:
    frame, row = np.full((40, 40, 3), 90, np.uint8), np.array([40.0, 20, 40, 0])
    assert (placement.cut(frame, row, 20) == 90).all()
    cut = placement.cut(frame, row, 20, beyond=255)
    assert (cut[:, :9] == 90).all() and (cut[:, 11:] == 255).all()


def test_window_holds_every_crop_and_stands_still() -> None:
    landmarks = talking() + np.linspace(0, 60, 40)[:, None, None] * (1, 0.5)
    rows, canonical = placement.place_window(landmarks, RATE), placement.place(landmarks, RATE)
    assert np.ptp(rows, axis=0).max() == 0 and rows[0, 3] == 0
    inside = placement.to_crop(canonical[:, None, :2], rows)[:, 0]
    reach = canonical[:, 2:3] / rows[:, 2:3] / 2
    assert (inside - reach > -0.02).all() and (inside + reach < 1.02).all()


def test_every_smoothed_crop_halves_the_jitter_of_raw_landmarks() -> None:
    landmarks = talking()
    raw = crop_jitter(placement.place_ffhq(landmarks))
    for rows in (
        placement.place(landmarks, RATE),
        placement.place_ffhq(landmarks, RATE, seconds=0.1),
        placement.place_by_eyes(landmarks, RATE),
    ):
        assert crop_jitter(rows) < 0.5 * raw


def test_stylegan3_transform_and_its_inverse() -> None:
    window = np.array([300.0, 200.0, 400.0, 5.0])
    rows = np.array([[320, 180, 250, 20], [260, 240, 410, -33], [300, 200, 400, 5]], float)
    matrices = placement.stylegan3_transform(rows, window)
    np.testing.assert_allclose(matrices[2], np.eye(3), atol=1e-12)
    aligned = np.array([0.2, -0.1])  # a point of the aligned picture, from its middle
    expected = placement.to_crop(placement.to_picture(aligned[None] + 0.5, rows[0]), window)[0] - 0.5
    np.testing.assert_allclose(matrices[0, :2] @ [*aligned, 1], expected)
    np.testing.assert_allclose(placement.placement_from_stylegan3(matrices, window), rows, atol=1e-3)


def test_stylegan3_draws_the_aligned_face_where_the_camera_saw_it() -> None:
    torch.manual_seed(0)
    size = 64
    config = StyleGAN3Config(resolution=size, z_dim=16, w_dim=16, num_layers=6, channel_base=1024, channel_max=16)
    generator = StyleGAN3(config).eval()
    window, row = np.array([32.0, 32.0, 64.0, 0.0]), np.array([38.0, 29.0, 64.0, 0.0])
    w = generator.map(torch.randn(1, 16))
    with torch.no_grad():
        aligned = generator.synthesize(w=w)[0].mean(0).numpy()
        moved = generator.synthesize(w=w, transform=torch.from_numpy(placement.stylegan3_transform(row, window)))
    inner = moved[0].mean(0).numpy()[16:48, 16:48]
    miss = np.abs(inner - aligned[19:51, 10:42]).mean()  # 6 to the right, 3 up
    assert miss < 0.2 * np.abs(inner - aligned[16:48, 16:48]).mean()


def test_registered_crop_of_a_still_head_is_still_while_the_mouth_moves() -> None:
    frames, landmarks = filmed(np.tile([200.0, 200.0, 400.0, 0.0], (16, 1)))
    rows = registration.place_registered(frames, landmarks, RATE, seconds=0)
    corners = placement.to_picture(np.broadcast_to(CORNERS, (16, 4, 2)), rows)
    assert np.abs(corners - corners[0]).max() < 0.2  # pixels
    assert crop_jitter(rows) < 0.05 * crop_jitter(placement.place_ffhq(landmarks))


def test_registration_recovers_a_known_motion_to_a_fraction_of_a_pixel() -> None:
    time = np.arange(16)
    rows = np.stack(
        [200 + 9 * np.sin(time / 3), 200 + 7 * np.cos(time / 3), 350 + 20 * np.sin(time / 4), 8 * np.sin(time / 3)],
        axis=1,
    )
    frames, landmarks = filmed(rows)
    found = registration.place_registered(frames, landmarks, RATE, seconds=0)
    # Where the crop's corners lie on the person, who has not moved.
    on_person = placement.to_picture(placement.to_picture(np.broadcast_to(CORNERS, (16, 4, 2)), found) / 320, rows)
    miss = np.linalg.norm(on_person - on_person[0], axis=-1)
    assert miss.mean() < 0.15 and miss.max() < 0.4  # pixels of 400


def test_registration_takes_another_key_frame_when_the_head_turns_and_comes_back_without_a_jump() -> None:
    yaw = np.append(25 * np.sin(np.linspace(0, np.pi, 20)), np.zeros(25))
    drawn = [world.draw(person(yaw=angle), 256) for angle in yaw]
    landmarks = np.stack([each.landmarks * 256 for each in drawn])
    rows = registration.place_registered([each.image for each in drawn], landmarks, RATE)
    assert np.abs(np.diff(rows[:, :2], axis=0)).max() < 6
    np.testing.assert_allclose(rows[-1], rows[0], atol=3)


def test_paste_keeps_outside_bytes_and_gives_an_unchanged_crop_back() -> None:
    frame = world.draw(person(), 300).image
    row = np.array([150.0, 150.0, 160.0, 12.0])
    pasted, visible = paste(frame, placement.cut(frame, row, 160), row)
    y, x = np.indices((300, 300)) + 0.5
    inside = placement.to_crop(np.stack([x, y], -1).reshape(-1, 2), row).reshape(300, 300, 2)
    outside = ((inside < 0) | (inside > 1)).any(-1)
    np.testing.assert_array_equal(pasted[outside], frame[outside])
    assert (pasted != frame).any() and np.abs(pasted.astype(int) - frame).mean() < 1
    assert visible < 0.5


def test_paste_matches_a_colour_cast_and_shows_the_edit() -> None:
    frame = np.clip(np.indices((200, 200)).sum(0)[..., None] * 0.3 + (60, 70, 80), 0, 255).astype(np.uint8)
    row = np.array([100.0, 100.0, 120.0, 0.0])
    crop = placement.cut(frame, row, 120).astype(int) + (10, -8, 6)
    crop[50:70, 50:70] = (250, 10, 10)
    pasted, visible = paste(frame, crop.astype(np.uint8), row)
    assert np.abs(pasted.astype(int) - frame)[45:80, 45:80].mean() < 2  # the cast is gone
    assert pasted[100, 100, 0] > 220 and visible < 1


def test_seam_grows_with_what_differs_at_the_border() -> None:
    frame = np.full((200, 200, 3), 90, np.uint8)
    row = np.array([100.0, 100.0, 120.0, 0.0])
    same, cast, white = (paste(frame, np.full((64, 64, 3), level, np.uint8), row) for level in (90, 100, 250))
    assert same.seam == 0 and cast.seam < 0.2 and white.seam > 10 * cast.seam
    assert white.frame[100, 100, 0] > 220  # another thing keeps its colour


def blended(first: np.ndarray, second: np.ndarray, alpha: np.ndarray) -> float:
    """The seam of the second image laid over the first by a mask [256, 256]."""
    result = np.rint(first + alpha[..., None] * (second.astype(float) - first))
    return seam(result, [first.astype(float), second.astype(float)], alpha, 1.0)


def test_the_seam_is_bad_where_the_eye_sees_one() -> None:
    away = np.hypot(*(np.indices((256, 256)) - 128))
    plain = np.full((256, 256, 3), 110, np.uint8)

    def disc(levels: int, width: float) -> float:
        return blended(plain, plain + np.uint8(levels), np.clip((80 - away) / width + 0.5, 0, 1).astype(np.float32))

    hard = [disc(levels, 1) for levels in (2, 8, 32, 64)]
    assert hard[0] < 1 and 2 < hard[1] < 4 and hard[2] > 10 and hard == sorted(hard)  # just seen: about 2
    soft = [disc(32, width) for width in (1, 6, 20, 60)]
    assert soft == sorted(soft, reverse=True) and soft[-1] < 2
    # A ring of the old background around a head is a halo; the head's own outline on another background is none.
    drawn = world.draw(person(hat=0, hair_style=0.0), 256)
    shown = drawn.regions != REGIONS.index("background")
    green = np.full((256, 256, 3), (60, 90, 60), np.uint8)
    masks = (binary_erosion(shown, border_value=1), binary_dilation(shown, iterations=6))
    outline, halo = (blended(green, drawn.image, mask.astype(np.float32)) for mask in masks)
    assert halo > 15 and halo > 2 * outline


def test_a_head_is_pasted_without_a_halo_and_the_old_one_is_gone() -> None:
    frame = world.draw(person(backdrop_kind=0.1, backdrop_light=0.2, hair_style=0.62, hair_length=0.8), 256).image
    bald = world.draw(person(backdrop_kind=0.1, backdrop_light=0.8, hair_style=0.0, hat=0, glasses=0), 256).image
    row = np.array([128.0, 128.0, 256.0, 0.0])
    head, whole = Head().paste(frame, bald, row), paste(frame, bald, row)
    assert head.seam < 3 < whole.seam
    # The face is the new one; the clothes, and what is far from the head, are the frame's.
    np.testing.assert_allclose(head.frame[100:150, 110:146].astype(float), bald[100:150, 110:146], atol=12)
    np.testing.assert_array_equal(head.frame[240:, :40], frame[240:, :40])
    assert np.abs(head.frame[70:100, 8:20].astype(int) - frame[70:100, 8:20]).mean() < 12


def test_a_persons_own_crop_brings_its_backdrop_along() -> None:
    """Where the head was there is what the crop shows, not a smear of what is around."""
    values = person(backdrop_kind=0.9, backdrop_light=0.5, hair_style=0.62, hair_length=0.8, yaw=-14)
    frame = world.draw(values, 256).image
    values[INDEX["yaw"]] = 14
    turned = world.draw(world.align(values), 256)
    row = np.array([128.0, 128.0, 256.0, 0.0])
    own, other = Head(own=True).paste(frame, turned.image, row), Head().paste(frame, turned.image, row)
    error = [np.abs(pasted.frame.astype(float) - turned.image).mean(-1) for pasted in (own, other)]
    shown = np.isin(turned.regions, [REGIONS.index(name) for name in ("skin", "hair", "eye", "lips")])
    near = np.asarray(binary_dilation(shown, iterations=12), bool) & ~shown
    near[150:] = False
    assert error[0][near].mean() < 0.5 * error[1][near].mean() and error[0][shown].mean() < 4
    assert own.seam < 3
    np.testing.assert_array_equal(own.frame[245:, :20], frame[245:, :20])
    rolled = np.array([128.0, 128.0, 170.0, 25.0])
    y, x = np.indices((256, 256), np.float64) + 0.5
    beside = np.abs(to_crop(np.stack([x, y], -1), rolled) - 0.5).max(-1) > 0.51
    pasted = Head(own=True).paste(frame, turned.image, rolled).frame
    np.testing.assert_array_equal(pasted[beside], frame[beside])
    assert (pasted != frame).any()


def test_fill_goes_on_smoothly_from_what_is_known() -> None:
    ramp = np.repeat(np.linspace(0, 200, 64)[None, :, None], 50, axis=0).repeat(3, axis=2).astype(np.float32)
    known = np.ones((50, 64), bool)
    known[15:35, 20:44] = False
    filled = fill(np.where(known[..., None], ramp, 0), known)
    np.testing.assert_array_equal(filled[known], ramp[known])
    assert np.abs(filled - ramp).max() < 40


def test_paste_beside_and_across_the_edge_of_the_frame() -> None:
    frame = np.full((100, 120, 3), 50, np.uint8)
    crop = np.full((64, 64, 3), 60, np.uint8)
    np.testing.assert_array_equal(paste(frame, crop, np.array([500.0, 500.0, 80.0, 0.0])).frame, frame)
    across = paste(frame, crop, np.array([0.0, 50.0, 80.0, 0.0]))
    assert across.frame.shape == frame.shape and np.isfinite(across.seam)
