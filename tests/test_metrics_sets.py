"""Measures of sets and of frame pairs: closed forms, known numbers, independence of batches, and honest intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from stylereel.metrics import features, pictures
from stylereel.metrics.clips import Clip
from stylereel.metrics.frechet import Moments, Pool, frechet_between, frechet_distance, kernel_between, kernel_distance
from stylereel.metrics.inception import Inception
from stylereel.metrics.intervals import bootstrap, jackknife
from stylereel.metrics.registry import Run, Unfit, find
from stylereel.metrics.sets import VIDEO_PROTOCOLS, VideoProtocol, starts_of, windows_of
from stylereel.zoo.unpickle import unpickle

GOLDENS = Path(__file__).parent / "goldens"


def golden(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    return json.loads((GOLDENS / f"{name}.json").read_text())["config"], load_file(GOLDENS / f"{name}.safetensors")


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def clips(seed: int, count: int = 3, frames: int = 5, dark: int = 1) -> list[Clip]:
    return [Clip(noise(seed + i, frames, 40, 48, 3) // dark, f"clip{i}") for i in range(count)]


# Frechet and kernel distance


@pytest.mark.parametrize("case", golden("metric_frechet")[0]["cases"], ids=lambda case: case["case"])
def test_frechet_distance_equals_the_sixty_digit_numbers(case: dict) -> None:
    arrays = golden("metric_frechet")[1]
    found = frechet_distance(*(arrays[f"in/{case['case']}/{part}"] for part in ("mu1", "sigma1", "mu2", "sigma2")))
    singular = min(case["rank1"], case["rank2"]) < case["dim"]
    assert found == pytest.approx(case["exact"], rel=1e-8 if singular else 1e-12, abs=1e-10)
    assert found == pytest.approx(case["value"], rel=1e-6 if singular else 1e-9, abs=1e-10)


def test_frechet_distance_of_gaussians_with_one_covariance_shape_is_known() -> None:
    """Means 3 apart; covariances a^2 I and b^2 I: 9 + D (a - b)^2."""
    dim = 5
    mean = np.zeros(dim)
    away = np.eye(dim)[2] * 3
    assert frechet_distance(mean, 4 * np.eye(dim), away, np.eye(dim)) == pytest.approx(9 + dim, rel=1e-12)
    assert frechet_distance(mean, 0 * np.eye(dim), away, np.eye(dim)) == pytest.approx(9 + dim, rel=1e-12)


def test_moments_and_kernel_distance_equal_the_known_numbers() -> None:
    config, arrays = golden("metric_feature_stats")
    x, y = arrays["in/features"], arrays["in/features2"]
    moments = Moments.of(x[:0])
    for start in range(0, len(x), 10):
        moments = moments + Moments.of(x[start : start + 10])
    np.testing.assert_allclose(moments.mean, arrays["out64/mean"], rtol=1e-6)
    np.testing.assert_allclose(moments.covariance(ddof=0), arrays["out64/cov_ddof0"], rtol=1e-6)
    np.testing.assert_allclose(moments.covariance(), np.cov(np.float64(x), rowvar=False), rtol=1e-10)
    subsets = zip(arrays["in/subset_x"], arrays["in/subset_y"])
    assert np.mean([kernel_distance(x[a], y[b]) for a, b in subsets]) == pytest.approx(config["kid"], rel=1e-6)


def test_moments_keep_their_digits_far_from_zero() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 3))
    far = sum((Moments.of(part + 1e7) for part in np.split(x, 100)), Moments.of(x[:0]))
    np.testing.assert_allclose(far.covariance(), np.cov(x, rowvar=False), rtol=1e-6, atol=1e-7)


def test_a_pool_is_the_same_however_it_was_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylereel.metrics.frechet.KEPT", 40)
    x = np.random.default_rng(1).standard_normal((90, 4))
    groups, places = np.arange(90) % 3, np.stack([np.arange(90) // 30, np.arange(90) % 30], 1)

    def filled(order: np.ndarray, step: int) -> Pool:
        pool = Pool(3, seed=5)
        for start in range(0, len(order), step):
            part = order[start : start + step]
            pool.add(x[part], groups[part], places[part])
        return pool

    one = filled(np.arange(90), 7)
    two = filled(np.arange(0, 90, 2), 8).merge(filled(np.arange(89, 0, -2), 1))
    assert len(one.features) == 40 and one.count == two.count == 90
    np.testing.assert_array_equal(one.features, two.features)
    np.testing.assert_allclose(one.total().covariance(), np.cov(x, rowvar=False), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(two.total().covariance(), one.total().covariance(), rtol=1e-12, atol=1e-14)
    assert frechet_between(one, two)[0] == pytest.approx(0, abs=1e-12)
    value, without = kernel_between(one, Pool(3, 0).merge(filled(np.arange(60), 60)))
    kept = filled(np.arange(60), 60).features
    assert value == pytest.approx(kernel_distance(one.features, kept), rel=1e-10)
    rest = one.features[one.labels[:, 1] != 1]
    assert without[0][1] == pytest.approx(kernel_distance(rest, kept), rel=1e-10)


def test_leaving_a_group_out_gives_the_distance_of_the_rest() -> None:
    random = np.random.default_rng(2)
    x, y = random.standard_normal((60, 4)), random.standard_normal((50, 4)) * 2 + 1
    pools = []
    for features_, count in ((x, 3), (y, 2)):
        pool = Pool(count, 0)
        rows = np.arange(len(features_))
        pool.add(features_, rows % count, np.stack([rows, rows], 1))
        pools.append(pool)
    _, without = frechet_between(*pools)
    rest = x[np.arange(60) % 3 != 2]
    expected = frechet_distance(rest.mean(0), np.cov(rest.T), y.mean(0), np.cov(y.T))
    assert without[0][2] == pytest.approx(expected, rel=1e-9)
    assert [len(side) for side in without] == [3, 2]


@pytest.mark.parametrize("name", ["frechet", "kernel-distance", "frechet-video"])
def test_equal_sets_have_distance_zero_and_batches_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VIDEO_PROTOCOLS, "windows", VideoProtocol(0, 2, "test"))
    ours, theirs = clips(0), clips(10, count=2, dark=8)
    scores = [find(name)(ours, theirs, Run(batch=batch)) for batch in (1, 3, 8)]
    assert scores[0].value > 1e-4 and "[stylereel-face-" in scores[0].name
    assert scores[0].interval is not None and scores[0].interval[0] < scores[0].value < scores[0].interval[1]
    for score in scores[1:]:
        assert score.value == pytest.approx(scores[0].value, rel=1e-5)
        assert score.interval == pytest.approx(scores[0].interval, rel=1e-4)
    same = find(name)(ours, ours).value
    # The unbiased kernel distance of a set to itself leaves out the diagonal once and is a little below zero.
    assert same == pytest.approx(0, abs=1e-9) if name != "kernel-distance" else -0.001 < same < 0


def test_frechet_equals_the_formula_on_the_face_nets_features() -> None:
    ours, theirs = clips(0), clips(10, dark=2)
    stacked = []
    for group in (ours, theirs):
        frames = np.stack([features.shrink_for_face(frame) for clip in group for frame in clip])
        x = np.float64(features.face_features(frames))
        stacked += [x.mean(0), np.cov(x, rowvar=False)]
    assert find("frechet")(ours, theirs).value == pytest.approx(frechet_distance(*stacked), rel=1e-5)


# Windows of video


def test_windows_hold_the_right_frames_and_the_draw_is_stratified() -> None:
    protocol = VideoProtocol(7, 3, "test", stride=2)
    counting = [Clip(np.arange(9, dtype=np.uint8)[:, None, None, None] + 100 * i, f"c{i}") for i in range(2)]
    starts = starts_of(counting, protocol, seed=1)
    assert sorted(map(len, starts)) == [3, 4] and starts == starts_of(counting, protocol, seed=1)
    assert all(len(set(chosen)) == len(chosen) and max(chosen) <= 4 for chosen in starts)
    windows = [make() for make in windows_of(counting, starts, protocol, lambda frame: frame)]
    for clip, start, pixels in windows:
        assert pixels.ravel().tolist() == [100 * clip + start + step for step in (0, 2, 4)]
    assert [(clip, start) for clip, start, _ in windows] == [(i, s) for i in range(2) for s in starts[i]]
    with pytest.raises(Unfit, match="draws 2048 windows of 60 frames and the clips have 0"):
        starts_of(counting, VIDEO_PROTOCOLS["stylefacev"], 0)


def test_video_features_see_motion_that_pictures_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same frames in another order: equal as pictures, different as video."""
    monkeypatch.setitem(VIDEO_PROTOCOLS, "windows", VideoProtocol(0, 4, "test"))
    slow = [
        np.clip(np.full((40, 48, 3), 20 * i) + noise(i, 40, 48, 3) // 8, 0, 255).astype(np.uint8) for i in range(12)
    ]
    jumping = [slow[i] for i in (0, 11, 5, 8, 1, 10, 3, 7, 2, 9, 4, 6)]
    assert find("frechet")([Clip(slow)], [Clip(jumping)]).value == pytest.approx(0, abs=1e-6)
    assert find("frechet-video")([Clip(slow)], [Clip(jumping)]).value > 0.01


def test_fvd_gives_the_file_whole_windows_and_the_preset_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A scripted stand-in with I3D's signature, accepted only because its hash is made the registry's."""

    class StandIn(torch.nn.Module):
        def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
            assert rescale and return_features and x.shape[1] == 3
            return torch.cat([x.mean((1, 3, 4)), x.std((1, 3, 4)) + float(resize)], 1)

    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    with pytest.raises(Unfit, match="stylereel weights get i3d_torchscript.pt"):
        find("fvd")(clips(0), clips(5))
    torch.jit.script(StandIn()).save(tmp_path / "i3d_torchscript.pt")
    with pytest.raises(Unfit, match="delete it and download it again"):
        find("fvd")(clips(0), clips(5))
    monkeypatch.setattr(features, "official", lambda name: tmp_path / name)
    with pytest.raises(Unfit, match="not the official file"):
        find("fvd")(clips(0, frames=33), clips(5, frames=33))
    monkeypatch.setattr(features, "_hash", lambda path: features.find_row(features.I3D).sha256)
    score = find("fvd")(clips(0, frames=33), clips(5, frames=33, dark=2))
    assert score.name == "fvd[i3d, windows]" and score.counts == {"windows": 6, "reference windows": 6}
    assert score.value > 1000
    assert find("fvd")(clips(0, frames=33), clips(0, frames=33)).value == pytest.approx(0, abs=1e-3)


# Networks


def test_inception_has_the_published_size_and_pooling() -> None:
    """21,785,568 parameters without the classifier, as in the published file; 2048 features; no padding in means."""
    network = Inception().eval()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568
    assert sum(1 for name in network.state_dict() if name.endswith("conv.weight")) == 94
    keys = {"Conv2d_4a_3x3.bn.running_mean", "Mixed_5b.branch5x5_2.conv.weight", "Mixed_6a.branch3x3.conv.weight",
            "Mixed_7c.branch3x3dbl_3b.conv.weight", "Mixed_6e.branch7x7dbl_5.bn.bias"}  # fmt: skip
    assert keys <= set(network.state_dict())
    assert network.state_dict()["Mixed_6c.branch7x7_2.conv.weight"].shape == (160, 160, 1, 7)
    strided = {name for name, part in network.named_modules() if getattr(part, "stride", 1) == (2, 2)}
    expected = {"Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"}
    assert strided == {f"{name}.conv" for name in {"Conv2d_1a_3x3", *expected}}
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 299, 299)).shape == (1, 2048)


def test_fid_resizing_keeps_constants_and_does_not_alias() -> None:
    flat = features.shrink_for_inception(np.full((600, 700, 3), 77, np.uint8))
    assert flat.shape == (299, 299, 3) and np.abs(flat - 77).max() < 1e-3
    stripes = np.zeros((598, 598, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(features.shrink_for_inception(stripes)[:, 5:-5] - 127.5).max() < 1


@pytest.mark.parametrize("kind", ["alex", "vgg"])
def test_lpips_equals_torchmetrics_on_random_backbones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official channel weights, and an independent formulation of scaling, taps and averages."""
    from torchmetrics.functional.image import lpips as theirs

    torch.manual_seed(0)
    ours = pictures.LPIPS(kind).eval()
    heads = unpickle(pictures.lpips_heads(kind))
    with torch.no_grad():
        for key, value in heads.items():
            ours.weights[int(key[3])].copy_(value)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda name, pretrained=False: ours.features)
    other = theirs._LPIPS(pretrained=True, net=kind, pnet_rand=True)  # type: ignore[arg-type]
    a, b = torch.rand(2, 2, 3, 64, 72) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(ours(a, b), other(a, b).flatten(), rtol=1e-5, atol=1e-7)
        assert ours(a, a).abs().max() == 0


def test_lpips_reads_torchvisions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = pictures.LPIPS("alex")
    state = {key: value for key, value in random.state_dict().items() if key.startswith("features")}
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, tmp_path / "alexnet-owt-7be5be79.pth")
    monkeypatch.setattr(pictures, "official", lambda name: tmp_path / name)
    score = find("lpips-alex").function(Clip(noise(0, 3, 64, 64, 3)), Clip(noise(1, 3, 64, 64, 3)))
    assert score.shape == (3,) and (score > 0).all()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "alexnet-owt-7be5be79.pth")
    pictures.lpips_network.cache_clear()
    with pytest.raises(Unfit, match="is not the file of this network"):
        find("lpips-alex").function(Clip(noise(0, 3, 64, 64, 3)), Clip(noise(1, 3, 64, 64, 3)))
    pictures.lpips_network.cache_clear()


# Frame pairs


def test_pixel_measures_have_their_known_values() -> None:
    a = [Clip(np.full((5, 32, 32, 3), 100, np.uint8))]
    b = [Clip(np.full((5, 32, 32, 3), 110, np.uint8))]
    assert find("l1")(a, b).value == 10
    assert find("psnr")(a, b).value == pytest.approx(20 * np.log10(25.5), rel=1e-12)
    # Constants have no variance: only the luminance term is left.
    assert find("ssim")(a, b).value == pytest.approx((2 * 100 * 110 + 2.55**2) / (100**2 + 110**2 + 2.55**2), abs=2e-4)


def test_equal_frames_give_the_best_values() -> None:
    a = [Clip(noise(3, 9, 48, 48, 3))]
    best = {"l1": 0.0, "psnr": np.inf, "ssim": 1.0, "face-feature-distance": 0.0}
    for name, value in best.items():
        score = find(name)(a, a)
        assert score.value == pytest.approx(value, abs=1e-6) and score.counts["frames"] == 9, name


def test_pixel_measures_equal_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    a, b = noise(0, 4, 32, 40, 3), noise(1, 4, 32, 40, 3)
    tensors = [torch.from_numpy(x).permute(0, 3, 1, 2).double() for x in (a, b)]
    expected = peak_signal_noise_ratio(*tensors, data_range=255.0, dim=(1, 2, 3))
    assert find("psnr")([Clip(a)], [Clip(b)]).value == pytest.approx(float(expected), rel=1e-7)


def test_more_noise_is_further_in_the_face_nets_maps() -> None:
    base = noise(0, 2, 64, 64, 3) // 2 + 40
    values = [find("face-feature-distance")([Clip(base)], [Clip(base + step)]).value for step in (1, 8, 40)]
    assert 0 < values[0] < values[1] < values[2]


# Intervals


def test_bootstrap_covers_the_truth_in_95_percent() -> None:
    """40 clips of unequal means: 400 experiments; independent frames of one clip: the same."""
    hits = {"clips": 0, "frames": 0}
    for trial in range(400):
        random = np.random.default_rng([7, trial])
        many = [random.normal(3 + random.normal(), 0.2, 5) for _ in range(40)]
        one = [np.convolve(random.normal(3, 1, 405), np.ones(5) / 5, "valid")[:400]]
        for name, values in (("clips", many), ("frames", one)):
            interval, how = bootstrap(values, trial, resamples=400)
            assert interval is not None and ("40 clips" in how or "blocks" in how)
            hits[name] += interval[0] <= 3 <= interval[1]
    assert 0.92 < hits["clips"] / 400 < 0.975
    # Neighbours are alike, so that single frames resampled would cover far less (under 0.7).
    assert 0.88 < hits["frames"] / 400 < 0.975


def test_jackknife_covers_the_truth_in_95_percent() -> None:
    """Of the squared distance of two means, from 10 groups of each set."""
    hits = 0
    for trial in range(400):
        x, y = np.random.default_rng([8, trial]).normal([[[0.0]], [[2.0]]], 1, (2, 10, 30))
        value = (x.mean() - y.mean()) ** 2
        without = [
            [(np.delete(x, i, 0).mean() - y.mean()) ** 2 for i in range(10)],
            [(x.mean() - np.delete(y, i, 0).mean()) ** 2 for i in range(10)],
        ]
        interval, _ = jackknife(value, without)
        assert interval is not None
        hits += interval[0] <= 4 <= interval[1]
    assert 0.92 < hits / 400 < 0.98


def test_intervals_leave_out_what_cannot_be_told_and_admit_having_none() -> None:
    nan = np.array([np.nan])
    interval, _ = bootstrap([np.array([1.0, np.nan, 1.0]), np.array([1.0]), nan], 0)
    assert interval == (1.0, 1.0)
    assert bootstrap([np.array([4.0])], 0)[0] is None and bootstrap([nan, nan], 0)[0] is None
    assert jackknife(1.0, [[1.0], []])[0] is None
    assert bootstrap([np.full(9, np.inf)], 0)[0] == (np.inf, np.inf)
