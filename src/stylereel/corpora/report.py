"""The page about a data set: counts, samples, and why each clip that is left out is. One file, nothing else needed."""

from __future__ import annotations

import base64
import re
from collections import Counter
from html import escape
from pathlib import Path

from stylereel.core.files import replacing
from stylereel.core.version import __version__
from stylereel.corpora.pack import Clip, Packed
from stylereel.corpora.settings import NEEDS
from stylereel.corpora.steps import Plan
from stylereel.corpora.store import Store

SAMPLES = 48  # clips with a picture
LISTED = 5000  # rejected clips with a picture; of more only the counts are complete

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:middle}
td.n{text-align:right}img{display:block;height:72px}figure{display:inline-block;margin:.3em;width:9em;font-size:12px}
figcaption{overflow-wrap:anywhere}tr{border-bottom:1px solid #ddd}"""


def kind_of(reason: str) -> str:
    """What reasons have in common: without their numbers and names."""
    short = re.sub(r"copy of .*", "copy of another clip.", reason)
    short = re.sub(r"[0-9]+(\.[0-9]+)?", "n", short)
    return re.sub(r"^\S+\.\w{2,4} (is|has|holds)", r"The file \1", short)


def write_report(packed: Packed, plan: Plan, store: Store, folder: Path) -> Path:
    """Write folder/report.html; the same data set gives the same bytes."""
    seconds = sum(_seconds(clip) for clip in packed.kept)
    kinds = Counter(kind_of(each.reason) for each in packed.rejected)
    parts = [
        f"<h1>Data for {escape(plan.system)}</h1><p>{escape(NEEDS[plan.system].about)}.</p>",
        f"<p>{len(packed.kept)} clips of {seconds / 60:.1f} minutes are in; {len(packed.rejected)} clips are left out. "
        f"Licences: {escape(_licences(packed.kept))}.</p>",
        "<h2>Why clips are left out</h2><table><tr><th>clips<th>reason</tr>",
        *(f"<tr><td class=n>{count}<td>{escape(kind)}</tr>" for kind, count in sorted(kinds.items(), key=_common)),
        "</table><h2>Samples</h2>",
        *(_figure(clip, store) for clip in _evenly(packed.kept)),
        f"<h2>Each clip that is left out</h2>{_omitted(len(packed.rejected))}<table>",
        *(
            f"<tr><td>{_image(each.looks, store)}<td>{escape(each.name)}<td>{escape(each.step)}"
            f"<td>{escape(each.reason)}</tr>"
            for each in sorted(packed.rejected)[:LISTED]
        ),
        "</table><h2>Parameters</h2><table>",
        *(
            f"<tr><td>{escape(step)}<td>{escape(name)}<td>{escape(Path(str(value)).name)}</tr>"
            for step in (*plan.steps, "pack")
            for name, value in plan.settings.table(step).items()
        ),
        f"</table><p>Made by stylereel {escape(__version__)}.</p>",
    ]
    path = folder / "report.html"
    head = f"<!doctype html><meta charset=utf-8><title>Data for {escape(plan.system)}</title><style>{STYLE}</style>"
    with replacing(path) as partial:
        partial.write_text("\n".join([head, *parts]) + "\n", encoding="utf-8")
    return path


def _common(pair: tuple[str, int]) -> tuple[int, str]:
    return -pair[1], pair[0]


def _seconds(clip: Clip) -> float:
    numerator, _, denominator = clip.facts("shots")["rate"].partition("/")
    return clip.facts("track")["frames"] * int(denominator or 1) / int(numerator)


def _licences(clips: list[Clip]) -> str:
    counts = Counter(clip.rows["track"].licence or "not given" for clip in clips)
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "none"


def _evenly(clips: list[Clip]) -> list[Clip]:
    step = max(1, -(-len(clips) // SAMPLES))
    return clips[::step]


def _omitted(count: int) -> str:
    return f"<p>The first {LISTED} of {count}.</p>" if count > LISTED else ""


def _image(key: str, store: Store) -> str:
    if not key:
        return ""
    data = base64.b64encode(store.arrays(key)["thumbnail"].tobytes()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'


def _figure(clip: Clip, store: Store) -> str:
    about = clip.facts("looks")
    data = store.arrays(clip.rows["crop"].key)
    ends = [0, *data["ends"].tolist()]
    middle = (len(ends) - 1) // 2
    form = {"jpg": "jpeg"}.get(clip.facts("crop")["form"], "png")
    picture = base64.b64encode(data["data"][ends[middle] : ends[middle + 1]].tobytes()).decode()
    text = f"{escape(clip.name)}: {_seconds(clip):.1f} s, face {about['face']:.0f} px, detail {about['sharpness']:.1f}"
    return f'<figure><img alt="" src="data:image/{form};base64,{picture}"><figcaption>{text}</figcaption></figure>'
