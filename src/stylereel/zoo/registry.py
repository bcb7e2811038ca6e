"""The official weight files that the systems can use: where they are, whose they are, and how one is fetched.

A file is kept under its row's name in one folder, with what is known of it in `hashes.json` next to it. Nothing
here opens a weight file for its contents.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from stylereel.core.files import MediaError, ensure_writable, replacing

CACHE_VARIABLE = "STYLEREEL_CACHE"
RECORD = "hashes.json"

NVIDIA = "NVIDIA Source Code License, non-commercial"
MPI = "Max Planck Institute licence, non-commercial research"
CODE_MIT = "MIT (code)"
WITH_GENERATOR = "MIT (code); the generator inside is NVIDIA's, non-commercial"
TORCHVISION_LICENCE = "BSD-3-Clause (code); trained on ImageNet, research only"
NO_LICENCE = "none given; ask the authors"
NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research"
STYLEHEAT = "https://github.com/FeiiYin/StyleHEAT/releases/download/styleheat"
STYLEFACEV = "https://drive.google.com/file/d/1c_JWfDjN44XpI8OG24p3FkdEufJGsv34/view"  # one archive of all files
LPIPS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
TORCHVISION = "https://download.pytorch.org/models"

SG3_SYSTEMS = ("stylefacev",)
SG2_SYSTEMS = ("stylevideogan", "expressive", "styleheat", "stylemask")


@dataclass(frozen=True)
class Row:
    """One official file.

    name: what it is called in the cache folder; about: what it is; url: its address, or with `manual` the page
    where a person has to fetch it; size in bytes and sha256 where they are known; needed_by: systems, or
    "faces", "metrics" and "train" for shared parts.
    """

    name: str
    about: str
    url: str
    licence: str
    needed_by: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    manual: bool = False


def _drive(identifier: str) -> str:
    """Direct address of a shared file; without the confirmation large files come as a web page."""
    return f"https://drive.usercontent.google.com/download?id={identifier}&export=download&confirm=t"


ROWS: tuple[Row, ...] = (
    # Generators
    Row(
        "ffhq.pkl",
        "StyleGAN2 FFHQ 1024 px, NVIDIA PyTorch (ada)",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/ffhq.pkl",
        NVIDIA,
        SG2_SYSTEMS,
        size=381_624_121,
        sha256="a205a346e86a9ddaae702e118097d014b7b8bd719491396a162cca438f2f524c",
    ),
    Row(
        "stylegan2-ffhq-config-f.pt",
        "StyleGAN2 FFHQ 1024 px, rosinality's names (as pSp, e4e and ReStyle use it)",
        _drive("1EM87UquaoQmk17Q8d5kYIAHqu0dkYqdT"),
        NVIDIA,
        SG2_SYSTEMS,
    ),
    Row(
        "550000.pt",
        "StyleGAN2 FFHQ 256 px, trained by rosinality",
        "https://drive.google.com/open?id=1PQutd-JboOCOZqmd95XWxWrO8gGEvRcO",
        CODE_MIT,
        SG2_SYSTEMS,
        manual=True,
    ),
    *(
        Row(
            f"{name}.pkl",
            about,
            f"{NGC}/{name.split('-')[0]}/versions/1/files/{name}.pkl",
            NVIDIA,
            systems,
        )
        for name, about, systems in (
            ("stylegan2-ffhq-1024x1024", "StyleGAN2 FFHQ 1024 px, NVIDIA (StyleGAN3 release)", SG2_SYSTEMS),
            ("stylegan2-ffhq-256x256", "StyleGAN2 FFHQ 256 px, NVIDIA (StyleGAN3 release)", SG2_SYSTEMS),
            ("stylegan3-r-ffhq-1024x1024", "StyleGAN3-R FFHQ 1024 px, NVIDIA", SG3_SYSTEMS),
            ("stylegan3-r-ffhqu-1024x1024", "StyleGAN3-R unaligned FFHQ 1024 px, NVIDIA", SG3_SYSTEMS),
            ("stylegan3-r-ffhqu-256x256", "StyleGAN3-R unaligned FFHQ 256 px, NVIDIA", SG3_SYSTEMS),
            ("stylegan3-t-ffhq-1024x1024", "StyleGAN3-T FFHQ 1024 px, NVIDIA", SG3_SYSTEMS),
            ("stylegan3-t-ffhqu-1024x1024", "StyleGAN3-T unaligned FFHQ 1024 px, NVIDIA", SG3_SYSTEMS),
            ("stylegan3-t-ffhqu-256x256", "StyleGAN3-T unaligned FFHQ 256 px, NVIDIA", SG3_SYSTEMS),
        )
    ),
    # Encoders
    Row(
        "e4e_ffhq_encode.pt",
        "e4e encoder and its generator, FFHQ",
        _drive("1cUv_reLE6k3604or78EranS7XzuVMWeO"),
        WITH_GENERATOR,
        SG2_SYSTEMS,
    ),
    Row(
        "psp_ffhq_encode.pt",
        "pSp encoder and its generator, FFHQ",
        _drive("1bMTNWkh5LArlaWSc_wa8VKyq2V42T2z0"),
        WITH_GENERATOR,
        ("stylevideogan",),
    ),
    Row(
        "restyle_psp_ffhq_encode.pt",
        "ReStyle encoder over pSp and its generator, FFHQ",
        _drive("1sw6I2lRIB0MpuJkpc8F5BJiSZrc0hjfE"),
        WITH_GENERATOR,
        ("stylevideogan", "expressive"),
    ),
    Row(
        "restyle_e4e_ffhq_encode.pt",
        "ReStyle encoder over e4e and its generator, FFHQ",
        _drive("1e2oXVeBPXMQoUoC_4TNwAWpOPpSEhE_e"),
        WITH_GENERATOR,
        ("stylevideogan", "expressive"),
    ),
    Row(
        "hfgi_ffhq.pt",
        "HFGI encoder, aligner and generator, FFHQ",
        _drive("19y6pxOiJWB0NoG3fAZO9Eab66zkN9XIL"),
        NO_LICENCE,
        ("styleheat",),
    ),
    # StyleMask
    Row(
        "mask_network_1024.pt",
        "StyleMask's mask networks for StyleGAN2 FFHQ 1024 px",
        _drive("1_V_MnFB8rh5qrQ3zJk00fKXb81uHjIU8"),
        NO_LICENCE,
        ("stylemask",),
    ),
    # StyleHEAT
    *(
        Row(name, about, f"{STYLEHEAT}/{published}", licence, ("styleheat",))
        for name, about, published, licence in (
            ("StyleHEAT_visual.pt", "StyleHEAT: generator, encoders, warper", "StyleHEAT_visual.pt", WITH_GENERATOR),
            ("Encoder_e4e.pth", "StyleHEAT's e4e encoder", "Encoder_e4e.pth", CODE_MIT),
            ("hfgi.pth", "StyleHEAT's HFGI aligner and encoder", "hfgi.pth", NO_LICENCE),
            ("StyleGAN_e4e.pth", "StyleHEAT's StyleGAN2, rosinality's names", "StyleGAN_e4e.pth", NVIDIA),
            ("stylegan2_d_256.pth", "StyleHEAT's discriminator, 256 px", "stylegan2_d_256.pth", CODE_MIT),
            ("ffhq_pca.pt", "principal directions of W, for edits", "ffhq_pca.pt", CODE_MIT),
            ("ffhq_pca_prior.npz", "principal components of W, a prior", "ffhq_PCA.npz", CODE_MIT),
            (
                "interfacegan_directions.zip",
                "directions of age, smile and pose in W",
                "interfacegan_directions-20230323T133213Z-001.zip",
                CODE_MIT,
            ),
        )
    ),
    Row(
        "deep3d_epoch_20.pth",
        "Deep3DFaceRecon network of face coefficients (published as epoch_20.pth)",
        f"{STYLEHEAT}/epoch_20.pth",
        "MIT (code); trained with the Basel Face Model, research only",
        ("styleheat",),
    ),
    Row(
        "01_MorphableModel.mat",
        "Basel Face Model 2009, to draw faces from Deep3D's coefficients",
        "https://faces.dmi.unibas.ch/bfm/main.php?nav=1-2&id=downloads",
        "Basel Face Model licence, research only; register there",
        ("styleheat",),
        manual=True,
    ),
    Row(
        "Exp_Pca.bin",
        "expression basis that goes with the Basel Face Model",
        _drive("1bw5Xf8C12pWmcMhNEu6PtsYVZkVucEN6"),
        "none given; see github.com/Juyong/3DFace",
        ("styleheat",),
    ),
    Row(
        "lipsync_expert.pth",
        "Wav2Lip's expert network for lip sync",
        "https://github.com/Rudrabha/Wav2Lip",
        "research and personal use only",
        ("styleheat",),
        manual=True,
    ),
    # StyleFaceV
    *(
        Row(
            name,
            about,
            STYLEFACEV,
            "MIT (code); a part carries a notice that grants no licence",
            SG3_SYSTEMS,
            manual=True,
        )
        for name, about in (
            ("network-snapshot-005000.pkl", "StyleFaceV's StyleGAN3-R 256 px; in the archive at this address"),
            ("latest_net_FE.pth", "StyleFaceV's appearance encoder and fusion; in the archive at this address"),
            ("latest_net_FE_lm.pth", "StyleFaceV's landmark network; in the archive at this address"),
            ("latest_net_FE_pose.pth", "StyleFaceV's pose encoder; in the archive at this address"),
            ("motion_net.pth", "StyleFaceV's motion sampler; in the archive at this address"),
            ("pre_net.pth", "StyleFaceV's pre-trained appearance encoder; in the archive at this address"),
            ("pre_pose_net.pth", "StyleFaceV's pre-trained pose encoder; in the archive at this address"),
        )
    ),
    Row(
        "wing.ckpt",
        "heatmaps of 98 face landmarks (StarGAN v2)",
        "https://www.dropbox.com/s/tjxpypwpt38926e/wing.ckpt?dl=1",
        "CC BY-NC 4.0",
        SG3_SYSTEMS,
    ),
    # Expressive talking heads
    Row(
        "modellarge10k.pt",
        "StyleFlow: normalising flow of attributes on W; in the repository's folder flow_weight",
        "https://github.com/RameenAbdal/StyleFlow",
        "CC BY-NC-SA 4.0",
        ("expressive",),
        manual=True,
    ),
    Row(
        "79999_iter.pth",
        "BiSeNet face parsing, 19 classes",
        _drive("154JgKpzCPW82qINcVieuPH3fZ2e0P812"),
        CODE_MIT,
        ("expressive",),
        size=53_289_463,
        sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
    ),
    # Faces
    Row(
        "model_ir_se50.pth",
        "ArcFace IR-SE50 identity embedding (TreB1eN)",
        "https://github.com/xinntao/facexlib/releases/download/v0.1.0/recognition_arcface_ir_se50.pth",
        CODE_MIT,
        ("expressive", "styleheat", "stylemask", "metrics"),
        size=175_367_323,
        sha256="a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
    ),
    Row(
        "face_landmarker.task",
        "MediaPipe face landmarks, blendshapes and pose",
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
        "face_landmarker.task",
        "Apache-2.0",
        ("faces",),
        size=3_758_596,
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    ),
    Row(
        "face_landmark.tflite",
        "MediaPipe face mesh, 468 points",
        "https://storage.googleapis.com/mediapipe-assets/face_landmark.tflite",
        "Apache-2.0",
        ("faces",),
        size=1_242_398,
        sha256="1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    ),
    Row(
        "iris_landmark.tflite",
        "MediaPipe eye contour and iris",
        "https://storage.googleapis.com/mediapipe-assets/iris_landmark.tflite",
        "Apache-2.0",
        ("faces",),
        size=2_640_568,
        sha256="d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
    ),
    Row(
        "face_detection_short_range.tflite",
        "MediaPipe BlazeFace, near faces",
        "https://storage.googleapis.com/mediapipe-assets/face_detection_short_range.tflite",
        "Apache-2.0",
        ("faces",),
        size=229_714,
        sha256="bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    Row(
        "face_detection_full_range_sparse.tflite",
        "MediaPipe BlazeFace, distant faces",
        "https://storage.googleapis.com/mediapipe-assets/face_detection_full_range_sparse.tflite",
        "Apache-2.0",
        ("faces",),
        size=676_746,
        sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    ),
    Row(
        "deca_model.tar",
        "DECA encoder of FLAME coefficients",
        "https://github.com/yfeng95/DECA",
        MPI,
        ("stylemask", "train"),
        manual=True,
    ),
    Row(
        "generic_model.pkl",
        "FLAME 2020 head model",
        "https://flame.is.tue.mpg.de/",
        "FLAME licence, non-commercial research; register there",
        ("stylemask", "train"),
        manual=True,
    ),
    Row(
        "landmark_embedding.npy",
        "positions of FLAME's landmarks on its mesh; in DECA's folder data",
        "https://github.com/yfeng95/DECA",
        MPI,
        ("stylemask", "train"),
        manual=True,
    ),
    # Metrics and perceptual losses
    Row(
        "pt_inception-2015-12-05-6726825d.pth",
        "Inception v3 of the Frechet distance (pytorch-fid's port)",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "Apache-2.0",
        ("metrics",),
        size=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    Row(
        "i3d_torchscript.pt",
        "I3D of the Frechet video distance (StyleGAN-V's port, TorchScript)",
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        "none given; ask the authors of StyleGAN-V",
        ("metrics",),
        size=51_235_320,
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    ),
    Row(
        "syncnet_v2.model",
        "SyncNet of the lip-sync distance and confidence",
        "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        CODE_MIT,
        ("metrics",),
        size=54_573_114,
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
    ),
    Row(
        "lpips_alex.pth",
        "LPIPS v0.1 weights over AlexNet (published as alex.pth)",
        f"{LPIPS}/alex.pth",
        "BSD-2-Clause",
        ("metrics", "train"),
        size=6_009,
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
    Row(
        "lpips_vgg.pth",
        "LPIPS v0.1 weights over VGG16 (published as vgg.pth)",
        f"{LPIPS}/vgg.pth",
        "BSD-2-Clause",
        ("metrics", "train"),
        size=7_289,
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    Row(
        "alexnet-owt-7be5be79.pth",
        "AlexNet, ImageNet (torchvision): LPIPS",
        f"{TORCHVISION}/alexnet-owt-7be5be79.pth",
        TORCHVISION_LICENCE,
        ("metrics", "train"),
        size=244_408_911,
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    Row(
        "vgg16-397923af.pth",
        "VGG16, ImageNet (torchvision): LPIPS and StyleFaceV's perceptual loss",
        f"{TORCHVISION}/vgg16-397923af.pth",
        TORCHVISION_LICENCE,
        ("stylefacev", "metrics", "train"),
        size=553_433_881,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    Row(
        "vgg19-dcbb9e9d.pth",
        "VGG19, ImageNet (torchvision): StyleHEAT's perceptual loss",
        f"{TORCHVISION}/vgg19-dcbb9e9d.pth",
        TORCHVISION_LICENCE,
        ("styleheat", "train"),
        size=574_673_361,
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
)


def cache_folder() -> Path:
    """Where weight files are kept: the folder STYLEREEL_CACHE names, else the system's place for caches."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("stylereel"))


def find(name: str) -> Row:
    """The row of that name. Raises ValueError, with the nearest name, if there is none."""
    for row in ROWS:
        if row.name == name:
            return row
    near = difflib.get_close_matches(name, [row.name for row in ROWS], n=1)
    hint = f"did you mean {near[0]}?" if near else "stylereel weights list shows what there is."
    raise ValueError(f"The registry has no weight file {name!r}; {hint}")


def fetch(name: str, folder: str | Path | None = None, report: Callable[[str], object] = print) -> Path:
    """The file of that name in the cache folder (or in `folder`), downloaded if it is not there yet.

    An interrupted download resumes. A file that the user put there is taken if it is the right one.
    `report` gets the licence before a download, and the hash of a file whose hash nobody knew: it is written down, and
    later copies are held against it.

    Raises:
        ValueError: there is no such row, a person has to fetch the file, the download failed, or what came is not
            the file; the message says where to put it by hand.
    """
    row = find(name)
    path = _path(row, folder)
    if path.exists():
        if not _is_known(path):
            _remember(path, _right_hash(row, path, report))
        return path
    if row.manual:
        raise ValueError(f"No program can fetch {row.name}; get it at {row.url} ({row.licence}) and put it at {path}.")
    report(f"{row.name}: {row.about}; licence: {row.licence}")
    report(f"from {row.url}")
    ensure_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{row.name}.download")
    _download(row, partial, path)
    try:
        sha256 = _right_hash(row, path, report, partial)
    except ValueError:
        partial.unlink()
        raise
    os.replace(partial, path)
    _remember(path, sha256)
    return path


def verify(
    name: str | None = None, folder: str | Path | None = None, report: Callable[[str], object] = print
) -> list[Path]:
    """Read the named file, or every registered one that is in the folder, and compare its hash.

    Returns the files, all right. Raises ValueError if the named one is not there, or, after looking at all of
    them, with the names of those that are wrong; `report` gets what is wrong with each.
    """
    paths = {row: _path(row, folder) for row in (ROWS if name is None else (find(name),))}
    found = {row: path for row, path in paths.items() if path.exists()}
    if name is not None and not found:
        raise ValueError(f"{name} is not downloaded; run stylereel weights get {name}.")
    wrong = []
    for row, path in found.items():
        _record(path.parent)  # a damaged record is no fault of the file
        try:
            _remember(path, _right_hash(row, path, report))
            report(f"{row.name}: right")
        except ValueError as error:
            wrong.append(row.name)
            report(str(error))
    if wrong:
        raise ValueError(f"Wrong content: {', '.join(wrong)}; delete these files and download them again.")
    return list(found.values())


def _path(row: Row, folder: str | Path | None) -> Path:
    return (cache_folder() if folder is None else Path(folder)).absolute() / row.name


# --- is it the right file?


def _right_hash(row: Row, path: Path, report: Callable[[str], object], partial: Path | None = None) -> str:
    """SHA-256 of the file at `path`, or of the download `partial` that will be there, once it is known to be right.

    Raises ValueError that says what it is instead and what to do.
    """
    file = path if partial is None else partial
    sha256, problem = _inspect(row, file, path.parent)
    if problem and partial is None:
        raise ValueError(f"{path} holds {problem}; delete it and download it again.")
    if problem:
        raise ValueError(f"{row.url} sent {problem}; try again, or get it with a browser and put it at {path}.")
    if row.sha256 is None and row.name not in _record(path.parent):
        report(f"no hash of {row.name} was known; from now on it is {sha256} ({file.stat().st_size} bytes)")
    return sha256


def _inspect(row: Row, file: Path, folder: Path) -> tuple[str, str]:
    """The file's SHA-256, and what it holds if it is not the row's file."""
    import pooch

    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(256).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "", "a web page instead of the file"
    if size == 0:
        return "", "nothing"
    if row.size not in (None, size):
        return "", f"{size} bytes instead of {row.size}"
    sha256 = pooch.file_hash(str(file))
    if row.sha256 not in (None, sha256):
        return sha256, f"other bytes than the official file (SHA-256 {sha256} instead of {row.sha256})"
    known = _record(folder).get(row.name)
    if row.sha256 is None and known is not None and known["sha256"] != sha256:
        return sha256, (
            f"other bytes than on {known['date']} (SHA-256 {sha256} instead of {known['sha256']}; if they are right, "
            f"take {row.name} out of {folder / RECORD})"
        )
    return sha256, ""


def _record(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> sha256, size, date of the first check, and the file's time of change at the last one."""
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text())
        return {
            name: {key: entry[key] for key in ("sha256", "size", "date", "modified")} for name, entry in record.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged; delete it, then its hashes are made anew.") from error


def _is_known(path: Path) -> bool:
    """Whether the file is as it was at its last check, as far as size and time of change show."""
    entry = _record(path.parent).get(path.name)
    status = path.stat()
    return entry is not None and (entry["size"], entry["modified"]) == (status.st_size, status.st_mtime_ns)


def _remember(path: Path, sha256: str) -> None:
    record = _record(path.parent)
    status = path.stat()
    entry = record.get(path.name, {})
    day = entry["date"] if entry.get("sha256") == sha256 else date.today().isoformat()
    record[path.name] = {"sha256": sha256, "size": status.st_size, "date": day, "modified": status.st_mtime_ns}
    with replacing(path.parent / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


# --- download


def _download(row: Row, partial: Path, path: Path) -> None:
    """Write what the address sends to `partial`, going on with what is there already where the server can.

    Raises ValueError if it does not send all of a file; what came stays, for the next try.
    """
    import requests

    by_hand = f"get it with a browser and put it at {path}"
    had = partial.stat().st_size if partial.exists() else 0
    # Compressed on its way, a file would have another length than the one announced.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={had}-"} if had else {})
    total = 0
    try:
        with requests.get(row.url, headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == 416:  # more is here than there
                partial.unlink()
                return _download(row, partial, path)
            answer.raise_for_status()
            had = had if answer.status_code == 206 else 0
            length = int(answer.headers.get("Content-Length", 0))
            total = had + length if length else 0
            with _progress(row.name, total or None, had) as advance, partial.open("ab" if had else "wb") as file:
                for chunk in answer.iter_content(1 << 16):
                    file.write(chunk)
                    advance(len(chunk))
    except requests.HTTPError as error:
        # The error's own text ends with the address.
        raise ValueError(f"{row.url} answered {str(error).split(' for url')[0]}; {by_hand}.") from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout) as error:
        if total or (partial.exists() and partial.stat().st_size):
            raise ValueError(_cut_off(row, total, by_hand)) from error
        raise ValueError(f"{row.url} cannot be reached; try again when online, or {by_hand}.") from error
    except requests.RequestException as error:
        raise ValueError(f"{row.url} cannot be downloaded ({type(error).__name__}); {by_hand}.") from error
    except OSError as error:
        raise MediaError(f"{path} cannot be written ({error.strerror or error}); choose another folder.") from error
    if partial.stat().st_size < total:  # older versions of urllib3 do not mind
        raise ValueError(_cut_off(row, total, by_hand))


def _cut_off(row: Row, total: int, by_hand: str) -> str:
    rest = f"all of its {total} bytes" if total else "its end"
    return f"The download of {row.url} was cut off before {rest}; the same command resumes it, or {by_hand}."


@contextmanager
def _progress(name: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal; gives the function that takes the number of new bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda amount: bar.advance(task, amount)
