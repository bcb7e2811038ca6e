"""Whose face it is, and whether it is one: measures of identity on embeddings of frames.

Three embeddings, never mixed: dlib's of real faces [128] (two images of one person are usually closer than 0.6),
ArcFace's [512] of unit length from its official file, and the built-in identity net's [128] of unit length, which knows
the world's people.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stylereel.core.builtin import builtin
from stylereel.core.weights import load_module
from stylereel.encoders.arcface import ArcFace
from stylereel.faces.backend import START_SCORE, DlibBackend, FaceBackend, embedding_file
from stylereel.faces.placement import cut, place, place_ffhq
from stylereel.family.nets import IdentityNet
from stylereel.metrics.clips import Clip
from stylereel.metrics.faces import track_of
from stylereel.metrics.features import official, to_unit
from stylereel.metrics.registry import Net, Unfit, measure
from stylereel.zoo.encoders import load_arcface_file
from stylereel.zoo.registry import cache_folder

ARCFACE = "model_ir_se50.pth"


def shows_one_face(picture: np.ndarray, backend: FaceBackend) -> bool:
    """Whether the detector, at its usual threshold, finds exactly one face in an image uint8 [H, W, 3]."""
    return sum(box.score > START_SCORE for box in backend.detect(picture)) == 1


@cache
def _identity_net(device: str) -> IdentityNet:
    return load_module(builtin("identity"), "identity", lambda config: IdentityNet()).eval().to(device)


def builtin_embeddings(portraits: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Embeddings [N, 128] by the built-in identity net of portraits uint8 [N, H, W, 3] in canonical framing."""
    net = _identity_net(device)
    with torch.inference_mode():
        parts = [net(to_unit(portraits[i : i + 32], device)).cpu() for i in range(0, len(portraits), 32)]
    return torch.cat(parts).double().numpy()


def cosine(embeddings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine similarity [N] of embeddings [N, D] with others [N, D] or [D]: 1 is the same direction, 0 unrelated.

    With the source portrait as the other it is the papers' CSIM (StyleHEAT, StyleMask), there on ArcFace.
    """
    length = np.linalg.norm(embeddings, axis=-1) * np.linalg.norm(others, axis=-1)
    return (embeddings * others).sum(-1) / length


def distance(embeddings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance [N] of embeddings [N, D] from others [N, D] or [D]."""
    return np.linalg.norm(embeddings - others, axis=-1)


def content_distance(embeddings: np.ndarray, form: Literal["pairs", "consecutive"] = "pairs") -> float:
    """Average content distance (ACD) of one clip's embeddings [T, D], T of 2 or more; 0 where nothing changes.

    `pairs` is the mean Euclidean distance of all pairs of frames (Tulyakov et al. 2018; StyleVideoGAN, on the
    embeddings of face_recognition, which are dlib's). `consecutive` takes each frame with the next alone and so
    misses slow drift. A clip that barely moves has a low one too: read it next to a measure of motion.
    """
    _at_least(embeddings, 2)
    if form == "consecutive":
        return float(distance(embeddings[1:], embeddings[:-1]).mean())
    far = np.concatenate([distance(embeddings[i + 1 :], embeddings[i]) for i in range(len(embeddings) - 1)])
    return float(far.mean())


def identity_variance(embeddings: np.ndarray) -> float:
    """Mean squared distance of a clip's embeddings [T, D] from their mean: half the mean square over all pairs."""
    _at_least(embeddings, 2)
    return float(((embeddings - embeddings.mean(0)) ** 2).sum(1).mean())


def _at_least(values: np.ndarray, count: int) -> None:
    if len(values) < count:
        raise ValueError(f"This measure needs {count} frames with a face or more, not {len(values)}.")


def same_person_closer(embeddings: Sequence[np.ndarray]) -> float:
    """Share of comparisons in which two frames of one person are closer than the first is to another person's frame.

    embeddings: for each person the embeddings [N, D] of some frames, N of 2 or more. 1 means that identity never gets
    lost, 0.5 that it plays no part.
    """
    wins = total = 0
    for i, mine in enumerate(embeddings):
        same = np.linalg.norm(mine[:, None] - mine[None], axis=2)
        for j, other in enumerate(embeddings):
            if i == j:
                continue
            cross = np.linalg.norm(mine[:, None] - other[None], axis=2)
            for a in range(len(mine)):
                own = np.delete(same[a], a)
                wins += int((own[:, None] < cross[a][None]).sum())
                total += own.size * cross.shape[1]
    return wins / total


# --- The measures


def dlib_embeddings(clip: Clip) -> np.ndarray:
    """dlib's embeddings [T, 128] of a clip's frames, NaN where no face is found."""
    track = track_of(clip)

    def embed() -> np.ndarray:
        backend, rows = DlibBackend(), np.full((len(track.found), 128), np.nan)
        for index, frame in enumerate(clip):
            if track.found[index]:
                rows[index] = backend.embedding(frame, track.landmarks[index])
        return rows

    return clip.keep("dlib embeddings", embed)


def _builtin_embeddings(clip: Clip, device: str) -> np.ndarray:
    """The built-in net's embeddings [T, 128] of the steady crop of each frame, NaN where no face is found."""
    track = track_of(clip)

    def embed() -> np.ndarray:
        squares = place(track.landmarks, track.rate, track.found)
        rows = np.concatenate(
            [builtin_embeddings(cut(frame, squares[i], 128)[None].copy(), device) for i, frame in enumerate(clip)]
        )  # one by one: constant memory
        rows[~track.found] = np.nan
        return rows

    return clip.keep("built-in embeddings", embed)


@cache
def _arcface(file: Path, device: str) -> ArcFace:
    return load_arcface_file(file).to(device)


def arcface_embeddings(clip: Clip, device: str = "cpu") -> np.ndarray:
    """ArcFace's embeddings [T, 512] of the FFHQ crop of each frame, NaN where no face is found.

    Raises Unfit when the official file is not there.
    """
    net, track = _arcface(official(ARCFACE), device), track_of(clip)

    def embed() -> np.ndarray:
        squares, rows = place_ffhq(track.landmarks), np.full((len(track.found), 512), np.nan)
        with torch.inference_mode():
            for index, frame in enumerate(clip):
                if track.found[index]:
                    crop = to_unit(cut(frame, squares[index], 256)[None].copy(), device)
                    rows[index] = net.embed(crop)[0].cpu().double().numpy()
        return rows

    return clip.keep("arcface embeddings", embed)


def _csim_net() -> Net:
    """ArcFace where its file is (a damaged one is named and not passed over), else dlib's network."""
    if (cache_folder() / ARCFACE).exists():
        return Net("arcface", official(ARCFACE))
    try:
        return Net("dlib", embedding_file())
    except ValueError as error:
        raise Unfit(str(error)) from error


def _builtin_net() -> Net:
    return Net("builtin", builtin("identity"))


def _portrait(embeddings: np.ndarray) -> np.ndarray:
    """The embedding of the first frame that has one."""
    return embeddings[np.flatnonzero(~np.isnan(embeddings[:, 0]))[0]]


def _with_a_face(embeddings: np.ndarray) -> np.ndarray:
    kept = embeddings[~np.isnan(embeddings[:, 0])]
    if len(kept) < 2:
        raise Unfit("This measure needs a face in two frames or more; give a longer clip.")
    return kept


@measure(
    "csim", compares="clip pairs", better="higher", unit="", net=_csim_net,
    protocol="Cosine of the embeddings of each frame and of the first face of the reference: ArcFace's of FFHQ crops "
             "(IR-SE50) if model_ir_se50.pth is downloaded, else dlib's; the name says which.",
    source="StyleHEAT and StyleMask, whose numbers are those of ArcFace",
)  # fmt: skip
def csim(result: Clip, reference: Clip, *, device: str = "cpu") -> np.ndarray:
    def embeddings(clip: Clip) -> np.ndarray:
        return arcface_embeddings(clip, device) if _csim_net().name == "arcface" else dlib_embeddings(clip)

    return cosine(embeddings(result), _portrait(embeddings(reference)))


@measure(
    "identity-cosine", compares="clip pairs", better="higher", unit="", net=_builtin_net,
    protocol="Cosine of the built-in identity net's embeddings of each frame and of the first face of the reference.",
    source="CSIM of StyleHEAT and StyleMask, with another net",
)  # fmt: skip
def identity_cosine(result: Clip, reference: Clip, *, device: str = "cpu") -> np.ndarray:
    return cosine(_builtin_embeddings(result, device), _portrait(_builtin_embeddings(reference, device)))


@measure(
    "identity-distance-dlib", compares="clip pairs", better="lower", unit="",
    protocol="Euclidean distance of dlib's embeddings of each frame and of the first face of the reference.",
    source="defined here; dlib calls two faces one person below 0.6",
)  # fmt: skip
def identity_distance(result: Clip, reference: Clip) -> np.ndarray:
    return distance(dlib_embeddings(result), _portrait(dlib_embeddings(reference)))


@measure(
    "acd-dlib", compares="clip", better="lower", unit="",
    protocol="Mean Euclidean distance of dlib's embeddings over all pairs of frames.",
    source="Tulyakov et al. 2018; StyleVideoGAN",
)  # fmt: skip
def acd(result: Clip) -> float:
    return content_distance(_with_a_face(dlib_embeddings(result)))


@measure(
    "acd-consecutive-dlib", compares="clip", better="lower", unit="",
    protocol="Mean Euclidean distance of dlib's embeddings of neighbouring frames.", source="defined here",
)  # fmt: skip
def acd_consecutive(result: Clip) -> float:
    return content_distance(_with_a_face(dlib_embeddings(result)), "consecutive")


@measure(
    "identity-variance-dlib", compares="clip", better="lower", unit="",
    protocol="Mean squared distance of dlib's embeddings from their mean.", source="defined here",
)  # fmt: skip
def identity_variance_dlib(result: Clip) -> float:
    return identity_variance(_with_a_face(dlib_embeddings(result)))
