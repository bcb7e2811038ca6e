"""How the page looks: a tab for each command, its form made of gradio's components, its results beside it."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from gradio.themes import Base, colors, sizes

from stylereel.commands.rendering import parse_time
from stylereel.core.files import replacing
from stylereel.invert.words import choices
from stylereel.web import forms
from stylereel.web.forms import Field, Tab
from stylereel.web.jobs import Jobs
from stylereel.web.live import Live
from stylereel.web.probe import ACCEPTED, CLIPS, OURS, PICTURES, SOUNDS
from stylereel.web.rates import Rates
from stylereel.web.stage import EXAMPLE, Stage

USUAL = "stylemask"  # the system, where it is among several
QUICK = (USUAL, "stylevideogan")  # what a form begins with, the first of these that it has
FIRST_PERSON = 29
PEOPLE = (29, 14, 60, 53, 12, 26, 21, 94, 43, 61, 77, 18)  # the first of the gallery
SANS = ["ui-sans-serif", "system-ui", "sans-serif"]  # the visitor's own fonts: none is fetched
MONO = ["ui-monospace", "Consolas", "monospace"]
THEME = Base(
    primary_hue=colors.teal,
    neutral_hue=colors.stone,
    radius_size=sizes.radius_lg,
    spacing_size=sizes.spacing_md,
    font=SANS,
    font_mono=MONO,
).set(
    body_background_fill="#faf8f5",
    body_background_fill_dark="#171513",
    block_background_fill="transparent",
    block_background_fill_dark="transparent",
    block_border_width="0px",
    block_shadow="none",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    block_padding="0px",
    panel_border_width="0px",
    button_primary_background_fill="#0f766e",
    button_primary_background_fill_hover="#115e59",
    button_primary_background_fill_dark="#2dd4bf",
    button_primary_background_fill_hover_dark="#5eead4",
    button_primary_text_color="#ffffff",
    button_primary_text_color_dark="#0b2a27",
    input_background_fill="#ffffff",
    input_background_fill_dark="#211e1b",
    input_border_width="1px",
)
HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/page/static/page.css"><script type="module" src="/page/static/page.js"></script>"""
ORDER = ("drive", "live", "say", "sample", "edit", "encode", "look", "people")
RESULTS = {
    "drive": f'<sr-preview for="drive" person="{FIRST_PERSON}"></sr-preview>',
    "live": f'<sr-live for="live" person="{FIRST_PERSON}"></sr-live>',
}
Mine = Literal["people", "motions", "results"]
TITLE = re.compile(r"[^\w .,'()-]+")


def _unopened(component: Any) -> Any:
    """A component whose file is handed on as it came: only the worker looks into files, and the page lives on if one of
    them kills it."""
    component.preprocess = lambda payload: payload.path if payload else None
    component.postprocess = _file
    return component


def _file(value: Any) -> Any:
    return None if value is None else gr.FileData(path=str(value), orig_name=Path(value).name)


@dataclass
class Asked:
    """A field on the page: its components, and what their values mean.

    read: values of the components, and the visitor, to the value for the command and the files that it needs, by their
    names in the job's folder.
    """

    field: Field
    components: list[Any]
    read: Callable[[str, Sequence[Any]], tuple[Any, dict[str, Path]]]


class Form:
    """The form of a tab: components, and what they mean together."""

    def __init__(self, page: Page, name: str, tab: Tab) -> None:
        self.page, self.name, self.tab = page, name, tab
        self.systems = forms.subjects(tab.command)
        self.default = next((name for name in (*QUICK, *self.systems) if name in self.systems), None)
        self.system: Any = None
        self.shared: list[Asked] = []
        self.own: dict[str, list[Asked]] = {}
        self._groups: list[tuple[str, Any]] = []
        shared = forms.fields(tab)
        more = [each for each in shared if not each.first]
        own = {name: [each for each in forms.fields(tab, name) if each.group == "options"] for name in self.systems}
        self.shared += [self._ask(each) for each in shared if each.first]
        self._own(own, first=True)
        note = gr.HTML(elem_classes="sr-note")
        button = gr.Button(tab.button, variant="primary", elem_classes="sr-go")
        if more or any(own.values()):
            with gr.Accordion("More options", open=False, elem_classes="sr-more"):
                if len(self.systems) > 1:
                    self.system = gr.Radio(self.systems, value=self.default, label="Method")
                self.shared += [self._ask(each) for each in more]
                self._own(own, first=False)
        groups = self._groups
        if self.system is not None:
            self.system.change(
                lambda chosen: [gr.update(visible=name == chosen) for name, _ in groups],
                self.system,
                [group for _, group in groups],
                show_progress="hidden",
            )
        everything = [self.system] if self.system is not None else []
        for one in [*self.shared, *(one for own in self.own.values() for one in own)]:
            everything += one.components
        asked = button.click(self.submit, everything, note, show_progress="hidden")
        if tab.command != "live":
            asked.then(None, js=f"() => stylereel.asked({name!r})")

    def _own(self, own: dict[str, list[Field]], first: bool) -> None:
        """The options of each system, of which those of the chosen one are seen."""
        for system, listed in own.items():
            chosen = [each for each in listed if each.first == first]
            if chosen:
                with gr.Column(visible=system == self.default, elem_classes="sr-own") as group:
                    self.own.setdefault(system, []).extend(self._ask(each) for each in chosen)
                self._groups.append((system, group))

    def submit(self, request: gr.Request, *values: Any) -> str:
        """Ask for the job. Returns what is put under the button: nothing, what is wrong, or a session's ticket."""
        try:
            return self._submit(self.page.visitor(request), list(values))
        except ValueError as error:
            return f'<p class="sr-error" role="alert">{html.escape(" ".join(str(error).split()))}</p>'

    def _submit(self, visitor: str, values: list[Any]) -> str:
        subject = values.pop(0) if self.system is not None else self.default
        given: dict[str, Any] = {}
        files: dict[str, Path] = {}
        for one in self.shared:
            self._read(visitor, one, values, given, files)
        for system, own in self.own.items():
            for one in own:
                if system == subject:
                    self._read(visitor, one, values, given, files)
                else:
                    del values[: len(one.components)]
        if self.tab.command == "say" and given.get("audio"):  # a sound instead of a text
            given.pop("text")
            given["movement"] = given.pop("seed", None)
            call = forms.call(forms.TABS["drive"], given.get("system") or USUAL, given)
        else:
            call = forms.call(self.tab, subject, given)
        _check_length(call, self.page.jobs.limits.longest)
        if self.tab.command == "live":
            if given["camera"] == "none" and (given.get("audio") is None or given["lips"] == "driving"):
                raise ValueError("Nothing moves the person; choose your camera, or a sound that the lips follow.")
            ticket = self.page.live.ticket(visitor, self._title(visitor, given, files), call, files)
            return f'<sr-ticket ticket="{ticket}"></sr-ticket>'
        calls: list[Any] = [call]
        if self.tab.command == "encode":
            decode = forms.Call("decode", None, (call.keywords["out"],), {"out": "result.mp4"}, {})
            calls += [decode, Rates(call.positional[0], call.keywords.get("system", USUAL))]
        self.page.jobs.add(visitor, self.name, self._title(visitor, given, files), files, calls)
        return ""

    def _read(self, visitor: str, one: Asked, values: list[Any], given: dict[str, Any], files: dict[str, Path]) -> None:
        mine = [values.pop(0) for _ in one.components]
        given[one.field.name], more = one.read(visitor, mine)
        files |= more

    def _title(self, visitor: str, given: dict[str, Any], files: dict[str, Path]) -> str:
        """A few words by which a result is known again."""
        parts = []
        for name in ("text", "source", "identity", "driving", "clip", "files", "seed", "audio"):
            value = given.get(name)
            if name == "seed":
                if self.name == "sample":
                    parts.append(f"take {value:g}")
            elif name == "audio" and value == "page":
                parts.append("my voice")
            elif isinstance(value, str) and value.isdecimal():
                parts.append(f"person {value}")
            elif value:
                names = value if isinstance(value, list) else [value]
                told = [self.page.jobs.title(visitor, files[each]) if each in files else str(each) for each in names]
                shown = [TITLE.sub(" ", each)[:40] for each in told]
                parts.append(", ".join(shown))
        return " · ".join(parts)[:90] or self.tab.title

    # --- one field

    def _ask(self, each: Field) -> Asked:
        return getattr(self, f"_ask_{each.kind}")(each)

    def _plain(self, each: Field, component: Any) -> Asked:
        return Asked(each, [component], lambda _, values: (values[0], {}))

    def _about(self, each: Field) -> str | None:
        return None if each.first else plain_words(each.help)

    def _ask_number(self, each: Field) -> Asked:
        if each.default is None and not each.required:  # a number field shows nothing as 0
            return self._plain(each, gr.Textbox(label=each.label, info=self._about(each), max_lines=1))
        return self._plain(
            each, gr.Number(each.default, label=each.label, info=self._about(each), precision=0 if each.whole else None)
        )

    def _ask_text(self, each: Field) -> Asked:
        return self._plain(each, gr.Textbox(each.default, label=each.label, info=self._about(each), max_lines=1))

    def _ask_words(self, each: Field) -> Asked:
        words = " ".join(map(str, each.default or ()))
        return self._plain(each, gr.Textbox(words, label=each.label, info=self._about(each), max_lines=1))

    def _ask_speech(self, each: Field) -> Asked:
        return self._plain(each, gr.Textbox(label=each.label, lines=3, max_length=2000, placeholder="Hello, you."))

    def _ask_switch(self, each: Field) -> Asked:
        return self._plain(each, gr.Checkbox(bool(each.default), label=each.label, info=self._about(each)))

    def _ask_choice(self, each: Field) -> Asked:
        kind: Any = gr.Radio if len(each.choices) <= 4 else gr.Dropdown
        value = each.default if each.default is None else str(each.default)
        if value is not None and each.choices and value not in each.choices:  # what the page does not offer
            value = each.choices[0]
        shown = list(zip(each.words or each.choices, each.choices))
        return self._plain(each, kind(shown, value=value, label=each.label, info=self._about(each)))

    def _ask_background(self, each: Field) -> Asked:
        with gr.Row(elem_classes="sr-pair"):
            colour = gr.Dropdown(
                ["as it is", "blur", "white", "black", "#3060a0"],
                value="as it is",
                label=each.label,
                info="A colour by name or as #3060a0, or blur.",
                allow_custom_value=True,
            )
            picture = gr.File(label="Or a picture or clip", file_types=[*PICTURES, *CLIPS], height=140)

        def read(_: str, values: Sequence[Any]) -> tuple[Any, dict[str, Path]]:
            if values[1]:
                return _upload(each.name, values[1], (*PICTURES, *CLIPS))
            return (None if values[0] in (None, "as it is") else forms.safe(str(values[0]), each.label)), {}

        asked = Asked(each, [colour, picture], read)
        return asked

    def _ask_clip(self, each: Field) -> Asked:
        _heading(each.label)
        clip = _unopened(gr.Video(
            str(self.page.example) if each.first else None, sources=["upload", "webcam"], show_label=False,
            include_audio=True, height=280, elem_classes="sr-clip", label=each.label, buttons=[],
        ))  # fmt: skip
        return Asked(each, [clip], lambda _, values: _upload(each.name, values[0], CLIPS))

    def _ask_driver(self, each: Field) -> Asked:
        asked = self._ask_clip(each)
        with gr.Accordion("Or a saved motion or talk file", open=False, elem_classes="sr-corrections"):
            file = gr.File(label="A file", file_types=list(OURS), height=110)
            mine = self.page.choice_of_mine("Or one of mine", "motions")

        def read(visitor: str, values: Sequence[Any]) -> tuple[Any, dict[str, Path]]:
            if values[1]:
                return _upload(each.name, values[1], OURS)
            if values[2]:
                return _upload(each.name, self.page.mine(visitor, values[2]), OURS)
            return asked.read(visitor, values[:1])

        return Asked(each, [*asked.components, file, mine], read)

    def _ask_voice(self, each: Field) -> Asked:
        """A sound while it is live."""
        options = [("None", "none"), ("My microphone", "page"), ("A file", "file")]
        how = gr.Radio(options, value="none", label=each.label)
        with gr.Column(visible=False) as place:
            sound = _unopened(gr.Audio(sources=["upload"], type="filepath", label="A file", elem_classes="sr-sound"))
        how.change(lambda chosen: gr.update(visible=chosen == "file"), how, place, show_progress="hidden")

        def read(_: str, values: Sequence[Any]) -> tuple[Any, dict[str, Path]]:
            if values[0] != "file":
                return (values[0] if values[0] == "page" else None), {}
            if not values[1]:
                raise ValueError("The sound is missing; give a file, or choose another sound.")
            return _upload(each.name, values[1], (*SOUNDS, *CLIPS))

        return Asked(each, [how, sound], read)

    def _ask_recording(self, each: Field) -> Asked:
        switch = gr.Checkbox(False, label=each.label)
        return Asked(each, [switch], lambda _, values: ("result.mp4" if values[0] else None, {}))

    def _ask_sound(self, each: Field) -> Asked:
        sound = _unopened(
            gr.Audio(sources=["upload", "microphone"], type="filepath", label=each.label, elem_classes="sr-sound")
        )
        return Asked(each, [sound], lambda _, values: _upload(each.name, values[0], (*SOUNDS, *CLIPS)))

    def _ask_photo(self, each: Field) -> Asked:
        _heading(each.label)
        photo = _unopened(gr.Image(
            type="filepath", sources=["upload", "webcam", "clipboard"], show_label=False, height=280, label=each.label,
            buttons=[],
        ))  # fmt: skip
        return Asked(each, [photo], lambda _, values: _upload(each.name, values[0], PICTURES))

    def _ask_file(self, each: Field) -> Asked:
        file = gr.File(label=each.label, file_types=list(ACCEPTED), height=90)
        return Asked(each, [file], lambda _, values: _upload(each.name, values[0], ACCEPTED))

    def _ask_files(self, each: Field) -> Asked:
        file = gr.File(label="Drop files here", file_types=list(ACCEPTED), file_count="multiple", height=150)
        mine = self.page.choice_of_mine("Or results of mine", "results", multiple=True)

        def read(visitor: str, values: Sequence[Any]) -> tuple[Any, dict[str, Path]]:
            found: dict[str, Path] = {}
            for path in [*(values[0] or []), *(self.page.mine(visitor, one) for one in values[1] or [])]:
                stem = re.sub(r"\W+", "-", Path(path).stem)[:40] or "file"
                name = _named(f"{len(found) + 1}-{stem}", path, ACCEPTED)
                found[name] = Path(path)
            return list(found), found

        return Asked(each, [file, mine], read)

    def _ask_corrections(self, each: Field) -> Asked:
        """A list for each name; what is left as it is read is no correction."""
        known = choices()
        with gr.Accordion(each.label if each.first else "Corrections", open=each.first, elem_classes="sr-corrections"):
            with gr.Row(elem_classes="sr-grid"):
                lists = [
                    gr.Dropdown(["as read", *values], value="as read", label=name.replace("_", " ").capitalize())
                    for name, values in known.items()
                ]
            other = gr.Textbox(
                label="By number", placeholder="nose_length=0.4, beard=0.2", max_lines=1,
                info="Any factor of the drawn people, as name=value, separated by commas.",
            )  # fmt: skip

        def read(_: str, values: Sequence[Any]) -> tuple[Any, dict[str, Path]]:
            words = [f"{name}={value}" for name, value in zip(known, values) if value not in (None, "as read")]
            return [*words, *re.split(r"[\s,;]+", (values[-1] or "").strip())], {}

        return Asked(each, [*lists, other], read)

    def _ask_person(self, each: Field) -> Asked:
        picker = Picker(self.page, self.name, each.label, required=each.required)

        def read(visitor: str, values: Sequence[Any]) -> tuple[Any, dict[str, Path]]:
            chosen, number, picture, own = values
            if chosen == "seed":
                return (None if number is None else f"{number:.0f}"), {}
            if chosen == "photo":
                return _upload(each.name, picture, PICTURES)
            if chosen == "mine" and own:
                return f"{each.name}.safetensors", {f"{each.name}.safetensors": self.page.mine(visitor, own)}
            return None, {}

        return Asked(each, picker.components, read)


class Picker:
    """A person: invented, from a photo, or one whom the visitor made."""

    def __init__(self, page: Page, name: str, label: str, photos: bool = True, required: bool = True) -> None:
        options = [("Invented", "seed"), ("From a photo", "photo"), ("One of mine", "mine")]
        options = [each for each in options if photos or each[1] != "photo"]
        if not required:
            options.insert(0, ("Leave it", "none"))
        begin = options[0][1]
        with gr.Column(elem_classes="sr-person"):
            how = gr.Radio(options, value=begin, label=label, elem_classes="sr-segments")
            with gr.Column(visible=begin == "seed") as invented:
                seed = page.gallery(name)
            with gr.Column(visible=False) as pictured:
                photo = _unopened(
                    gr.Image(
                        type="filepath", sources=["upload", "webcam", "clipboard"], show_label=False, height=240,
                        buttons=[], label="A photo of a face",
                    )
                )  # fmt: skip
            with gr.Column(visible=False) as made:
                mine = page.choice_of_mine("People whom you made", "people")
        self.components, self.how, self.seed, self.mine = [how, seed, photo, mine], how, seed, mine
        self.parts = {"seed": invented, "photo": pictured, "mine": made}
        how.change(self.seen, how, list(self.parts.values()), show_progress="hidden")
        show = f"(how, seed, mine) => {{ stylereel.person({name!r}, how === 'mine' ? mine : seed) }}"
        for one in (how, seed, mine):
            one.change(None, [how, seed, mine], None, js=show)
        page.pickers[name] = self

    def seen(self, chosen: str) -> list[Any]:
        """Which part is to be seen."""
        return [gr.update(visible=name == chosen) for name in self.parts]


class Page:
    """What the tabs share: the visitor, his people and results, pictures of invented people."""

    def __init__(self, jobs: Jobs, stage: Stage, live: Live, wishes: Callable[[str, Any], Any], people: Path) -> None:
        self.jobs, self.stage, self.live, self.wishes, self.people = jobs, stage, live, wishes, people
        self.example = EXAMPLE
        self.lists: list[tuple[Any, Mine]] = []
        self.galleries: list[Any] = []
        self.places: list[Any] = []  # the tab of each gallery
        self.tab: Any = None  # the one that is being built
        self.live_place: Any = None  # the tab of Live
        self.pickers: dict[str, Picker] = {}
        self.finish: list[Callable[[Any], Any]] = []  # what needs all tabs

    def visitor(self, request: gr.Request) -> str:
        """Whose request it is; the guard has seen to it that there is one."""
        asked: Any = request.request
        return asked.scope["visitor"]

    def mine(self, visitor: str, name: str) -> Path:
        """A result of the visitor's, by "JOB/FILE". Raises ValueError if it is gone."""
        job, _, file = str(name).partition("/")
        path = self.jobs.file(visitor, job, file)
        if path is None:
            raise ValueError("This result is no longer here; choose another.")
        return path

    def choice_of_mine(self, label: str, what: Mine, multiple: bool = False) -> Any:
        """A list of the visitor's own; filled when the page is loaded, and by the browser when a job is done."""
        found = gr.Dropdown(
            [], value=[] if multiple else None, label=label, multiselect=multiple, allow_custom_value=True
        )
        self.lists.append((found, what))
        return found

    def listed(self, request: gr.Request) -> list[Any]:
        """What the lists offer this visitor now."""
        visitor = self.visitor(request)
        mine: dict[Mine, list[tuple[str, str]]] = {}
        mine["people"], mine["motions"] = self.jobs.people(visitor), self.jobs.motions(visitor)
        mine["results"] = [
            (f"{job['title']} ({Path(job['files'][0]).suffix[1:]})", f"{job['name']}/{job['files'][0]}")
            for job in self.jobs.of(visitor)
            if job["files"] and job["tab"] != "look"
        ]
        return [gr.update(choices=mine[what]) for _, what in self.lists]

    def pictures(self, seeds: Sequence[int]) -> list[tuple[str, str]]:
        """Files with the portraits of seeds, and their captions; drawn when they are first wanted."""
        asked = {}
        for seed in seeds:
            if not (self.people / f"{seed}.jpg").exists():
                asked[seed] = self.stage.ask(f"gallery {seed}", self.wishes("", {"person": str(seed), "moment": 0}))
        for seed, future in asked.items():
            try:
                drawn = future.result(60)
            except (ValueError, Late):
                continue
            if drawn is not None:
                try:
                    with replacing(self.people / f"{seed}.jpg") as partial:
                        partial.write_bytes(drawn[0])
                except (ValueError, OSError):  # a full disk: the gallery has a gap
                    continue
        return [(str(self.people / f"{s}.jpg"), str(s)) for s in seeds if (self.people / f"{s}.jpg").exists()]

    def gallery(self, name: str) -> Any:
        """Portraits of invented people to choose from; the number of the chosen one."""
        gallery = gr.Gallery(
            None, columns=6, height="auto", object_fit="cover", allow_preview=False, show_label=False,
            elem_classes="sr-gallery", selected_index=0, interactive=False, buttons=[],
        )  # fmt: skip
        with gr.Row(elem_classes="sr-pair"):
            seed = gr.Number(FIRST_PERSON, label="Number of the person", precision=0, minimum=0, elem_id=f"seed-{name}")
            more = gr.Button("Show others", size="sm", elem_classes="sr-quiet")

        def choose(event: gr.SelectData) -> int:
            return int(event.value["caption"])

        gallery.select(choose, None, seed, show_progress="hidden")
        page = gr.State(0)

        def others(at: int) -> tuple[Any, int]:
            first = 100 + 12 * at
            return gr.update(value=self.pictures(range(first, first + 12)), selected_index=None), at + 1

        more.click(others, page, [gallery, page], show_progress="hidden")
        self.galleries.append(gallery)
        self.places.append(self.tab)
        return seed

    def first_people(self) -> Any:
        """What a gallery shows at first."""
        return gr.update(value=self.pictures(PEOPLE), selected_index=0)


def build(jobs: Jobs, stage: Stage, live: Live, wishes: Callable[[str, Any], Any], people: Path) -> gr.Blocks:
    """The page's forms."""
    page = Page(jobs, stage, live, wishes, people)
    with gr.Blocks(
        title="stylereel", analytics_enabled=False, fill_width=True, elem_id="sr", delete_cache=(3600, 86400)
    ) as blocks:
        gr.HTML('<header class="sr-head"><h1>stylereel</h1><p>Faces that move, made on this machine.</p></header>')
        with gr.Tabs(elem_id="sr-tabs") as tabs:
            known = forms.tabs()
            for name in ORDER:
                if name == "edit":
                    _edit(page)
                elif name in known:
                    _tab(page, name, known[name])
        with gr.Row(elem_classes="sr-hidden"):
            refresh = gr.Button("refresh", elem_id="sr-refresh")
            chosen = gr.Textbox(elem_id="sr-use")
            use = gr.Button("use", elem_id="sr-use-go")
        targets = [one for one, _ in page.lists]
        refresh.click(page.listed, None, targets, show_progress="hidden")
        blocks.load(page.listed, None, targets, show_progress="hidden")
        first = page.galleries[0]
        blocks.load(page.first_people, None, first, show_progress="hidden")
        for place, gallery in zip(page.places, page.galleries, strict=True):  # what is not seen takes no pictures
            if gallery is not first:
                place.select(page.first_people, None, gallery, show_progress="hidden")
            if place is page.live_place:
                place.select(page.live.prepare, None, None, show_progress="hidden")
        for finish in page.finish:
            finish(tabs)
        picker = page.pickers["drive"]
        use.click(
            lambda name: [gr.update(selected="drive"), "mine", gr.update(value=name), *picker.seen("mine")],
            chosen,
            [tabs, picker.how, picker.mine, *picker.parts.values()],
            show_progress="hidden",
        )
    blocks.queue(default_concurrency_limit=20, max_size=500)
    return blocks


def _tab(page: Page, name: str, tab: Tab) -> None:
    """The form of a command, and its results beside it."""
    with gr.Tab(tab.title, id=name, elem_id=f"tab-{name}", render_children=True) as page.tab:
        page.live_place = page.tab if name == "live" else page.live_place
        gr.HTML(f'<p class="sr-lead">{html.escape(tab.lead)}</p>')
        with gr.Row(elem_classes="sr-columns"):
            with gr.Column(scale=5, min_width=300, elem_classes="sr-form"):
                Form(page, name, tab)
            with gr.Column(scale=6, min_width=300, elem_classes="sr-results"):
                if name == "people":
                    _people(page)
                if name in RESULTS:
                    gr.HTML(RESULTS[name], elem_classes="sr-before")
                gr.HTML(f'<sr-jobs for="{name}"></sr-jobs>')


def _people(page: Page) -> None:
    """Invented people to look through."""
    _heading("Invented people")
    seed = page.gallery("people")
    use = gr.Button("Use in Drive", size="sm", elem_classes="sr-quiet")
    page.finish.append(
        lambda tabs: use.click(
            lambda number: [gr.update(selected="drive"), "seed", number, *page.pickers["drive"].seen("seed")],
            seed,
            [tabs, page.pickers["drive"].how, page.pickers["drive"].seed, *page.pickers["drive"].parts.values()],
            show_progress="hidden",
        )
    )


def _edit(page: Page) -> None:
    """The tab with the sliders, which answer by themselves (see page.js)."""
    with gr.Tab("Edit", id="edit", elem_id="tab-edit", render_children=True) as page.tab:
        gr.HTML('<p class="sr-lead">Move the sliders: the person changes while you do. Keep whom you like.</p>')
        with gr.Row(elem_classes="sr-columns"):
            with gr.Column(scale=6, min_width=300, elem_classes="sr-form"):
                Picker(page, "edit", "Who is changed", photos=False)
                gr.HTML('<sr-sliders for="edit"></sr-sliders>')
            with gr.Column(scale=5, min_width=300, elem_classes="sr-results sr-stay"):
                gr.HTML(f'<sr-edited for="edit" person="{FIRST_PERSON}"></sr-edited><sr-jobs for="edit"></sr-jobs>')


def _check_length(call: forms.Call, longest: float) -> None:
    """Raise ValueError if a result would be longer than so many seconds, by what the form says of it."""
    for name in ("start", "duration"):
        text = call.keywords.get(name)
        if text is not None and parse_time(text, name.capitalize()) > longest:
            raise ValueError(f"{name.capitalize()} takes {longest:g} s at most here.")
    if call.keywords.get("frames", 0) > 25 * longest:
        raise ValueError(f"Frames takes {25 * longest:g} at most here.")


def _heading(text: str) -> None:
    gr.HTML(f'<p class="sr-label">{html.escape(text)}</p>')


def plain_words(text: str) -> str:
    """A flag's help for people who see no flags."""
    text = re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", " "), text)
    text = re.sub(r"; null [^;]*", "", text)
    return text[:1].upper() + text[1:]


def _named(stem: str, path: str | Path, endings: Sequence[str]) -> str:
    ending = Path(path).suffix.lower()
    if ending not in endings:
        raise ValueError(
            f"{Path(path).name[:60]} is not what is wanted here; give a file that ends in {', '.join(endings)}."
        )
    return stem + ending


def _upload(name: str, path: Any, endings: Sequence[str]) -> tuple[Any, dict[str, Path]]:
    """An uploaded file under the name of its field."""
    if not path:
        return None, {}
    target = _named(name.rstrip("_"), path, endings)
    return target, {target: Path(path)}
