"""Lips by sound against exact truth: python benchmarks/voice.py [--clips FOLDER] [--out report.json]

World speech and voices that no training heard say sentences that it never had; what the world's mouth does for their
phonemes is the truth. With --clips also real speech (real-speech-25fps.mp4, speech-16khz.wav, speech-chinese.wav): the
truth is the world's mouth for the phonemes that PocketSphinx aligns, and the speaker's own mouth by the face mesh.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.io import wavfile
from scipy.signal import butter, resample_poly, sosfilt

from stylereel.commands.drive import drive
from stylereel.core.builtin import builtin
from stylereel.faces import backend
from stylereel.faces.coefficients import motion_of
from stylereel.family.voice import VoiceNet, listen, load_voice
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.media.sound import waveform
from stylereel.media.video import VideoReader
from stylereel.metrics import talking
from stylereel.metrics.clips import Clip
from stylereel.metrics.sync import all_offsets, best_offset
from stylereel.recipes.voices import HELD_OUT, coded, phoneme
from stylereel.world import alignment, espeak, speech
from stylereel.world.readers import read_aloud
from stylereel.world.speech import MOUTH, RATE, Phoneme

FPS = Fraction(25)
SENTENCES = (
    "Please bring me a cup of coffee before the meeting begins.",
    "My brother plays football every Saturday in the park.",
    "Why would anybody want to leave such a lovely place?",
    "The museum opens at nine, but we arrived much too early.",
    "Bob made five phone calls from the office on Monday.",
    "A warm wind blew over the empty beach all evening.",
    "Could you repeat the number, please? I did not hear it.",
    "She thought about the problem for a whole week and then solved it.",
)
# What is said in the real clips, and until which second the words are certain.
WORDS = {
    "real-speech-25fps.mp4": (
        "congressional district and i'm currently in d c for my second week of new member orientation in addition to "
        "learning where things are and how to use the tunnels",
        8.0,
    ),
    "speech-16khz.wav": (
        "holidays are a time of celebrating with loved ones enjoying the festivities", 4.25,
    ),
}  # fmt: skip
LONG = 0.3  # seconds of a pause in which silence is measured, without its edges
EDGE = 0.12

Said = tuple[np.ndarray, list[Phoneme]]


def own() -> Iterator[Said]:
    """World speech: two voices for each sentence."""
    for index in range(2 * len(SENTENCES)):
        said = speech.speak(SENTENCES[index % len(SENTENCES)], 900 + index)
        yield said.audio, list(said.phonemes)


def by_espeak(voice: str) -> Iterator[Said]:
    for sentence in SENTENCES:
        said = espeak.speak(sentence, voice)
        yield said.audio, list(said.phonemes)


def by_festival(voice: str) -> Iterator[Said]:
    """Festival's diphones of a person's voice, a synthesiser that no training has; nothing where it is missing."""
    for sentence in SENTENCES:
        with TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "say.scm").write_text(
                f'(voice_{voice})\n(set! u (utt.synth (Utterance Text "{sentence.replace(",", "")}")))\n'
                f'(utt.save.wave u "{place / "said.wav"}" \'riff)\n(utt.save.segs u "{place / "said.lab"}")\n'
            )
            try:
                subprocess.run(["festival", "-b", str(place / "say.scm")], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                return
            rate, sound = wavfile.read(place / "said.wav")
            lines = [line.split() for line in (place / "said.lab").read_text().splitlines()]
        track: list[Phoneme] = []
        for end, _, name in (line for line in lines if len(line) == 3 and line[0] != "#"):
            track.append(phoneme(name, track[-1].end if track else 0, round(float(end) * RATE)))
        yield resample_poly(sound / 32768, RATE, rate).astype(np.float32), track


def spoiled(kind: str) -> Iterator[Said]:
    """World speech in noise, by telephone, as MP3, softly."""
    for index, (sound, track) in enumerate(own()):
        if kind == "noise at 10 dB":
            noise = np.random.default_rng(index).standard_normal(len(sound))
            sound = sound + 10**-0.5 * np.sqrt(np.mean(sound**2)) * noise
        elif kind == "telephone":
            sound = np.asarray(sosfilt(butter(4, (300, 3400), "bandpass", fs=RATE, output="sos"), sound))
        elif kind == "mp3, 16 kbit/s":
            sound = coded(sound, "mp3", 16000)
        else:
            sound = 10**-1.5 * sound
        yield sound.astype(np.float32), track


def measured(net: VoiceNet, said: Iterator[Said]) -> dict[str, Any] | None:
    """Correlation of the opening and of each factor, closures, offsets, and opening in silence, over utterances."""
    opening, factors, offsets, quiet = [], [], [], []
    number = closed = 0
    for sound, track in said:
        mouth = listen(net, [sound]).mouth(FPS)
        times = np.arange(len(mouth)) / float(FPS)
        truth = speech.mouth(track, times)
        ours, theirs = talking.opening(mouth), talking.opening(truth)
        opening.append(np.corrcoef(ours, theirs)[0, 1])
        factors.append([np.corrcoef(a, b)[0, 1] if np.ptp(b) > 0.01 else np.nan for a, b in zip(mouth.T, truth.T)])
        offsets.append(best_offset(ours, theirs, 10).frames)
        lips = talking.closures(ours, track, FPS)
        number, closed = number + lips.number, closed + lips.closed
        for each in track:
            if each.name == "_" and each.end - each.start > LONG * RATE:
                inside = (times >= each.start / RATE + EDGE) & (times <= each.end / RATE - EDGE)
                quiet += (ours[inside] / np.percentile(theirs, 95)).tolist()
    if not opening:
        return None
    return {
        "opening r": round(float(np.mean(opening)), 3),
        "least": round(float(np.min(opening)), 3),
        "closures": f"{closed}/{number}",
        "closed": round(closed / number, 3),
        "offsets": sorted(set(offsets)),
        "silence": round(float(np.mean(quiet)), 3) if quiet else None,
        **{f"{name} r": round(float(each), 2) for name, each in zip(MOUTH, np.nanmean(factors, axis=0))},
    }


def real(net: VoiceNet, path: Path) -> dict[str, Any]:
    """Real speech: against the aligned phonemes' mouth where the words are known; silence and loudness."""
    sound = waveform(path, RATE)
    hearing = listen(net, [sound])
    mouth = hearing.mouth(FPS)
    ours = talking.opening(mouth)
    speaking = talking.speech_frames(sound, len(ours), FPS)
    loud = np.array([np.sqrt(np.square(part).mean()) for part in np.array_split(sound, len(ours))])
    wide = np.percentile(ours, 95)
    quiet = talking.runs_of(~speaking, talking.SILENCE * float(FPS))
    found = {
        "speech, as heard": round(hearing.speaking, 3),
        "speech, by voice activity": round(float(speaking.mean()), 3),
        "opening with loudness r": round(float(np.corrcoef(ours, np.log(loud + 1e-3))[0, 1]), 3),
        "frames of silence": int(quiet.sum()),
        "of which closed": round(float((ours[quiet] < 0.05 * wide).mean()), 3) if quiet.any() else None,
    }
    if path.name in WORDS:
        words, until = WORDS[path.name]
        track = alignment.align(sound[: round(until * RATE)], words)
        ours = ours[: int(until * FPS)]
        truth = talking.opening(speech.mouth(track, np.arange(len(ours)) / float(FPS)))
        found["opening with that of the aligned phonemes r"] = round(float(np.corrcoef(ours, truth)[0, 1]), 3)
        lips = talking.closures(ours, track, FPS)
        found["closures"] = f"{lips.closed}/{lips.number}"
    return found


def speaker(net: VoiceNet, path: Path) -> dict[str, Any]:
    """The speaker's own mouth by the mesh, against what is heard and against the world's mouth for the phonemes."""
    reader = VideoReader(path)
    track = backend.track(reader, reader.rate, backend=backend.open_backend("mesh"))
    motion = motion_of(track)
    sound = waveform(path, RATE)
    heard = listen(net, [sound]).mouth(FPS, len(motion))
    phonemes = alignment.align(sound, WORDS[path.name][0])
    aligned = speech.mouth(phonemes, np.arange(len(motion)) / float(FPS))
    assert track.points is not None
    shown = {
        "opening": talking.lips_apart(track.points),
        "rounding": motion.column("pucker") + motion.column("funnel"),
        "smile": motion.column("smile"),
    }
    agreeing: dict[tuple[str, str], dict[int, float]] = {}
    for name, mouth in (("heard", heard), ("aligned", aligned)):
        tracks = {"opening": talking.opening(mouth), "rounding": mouth[:, 1] + mouth[:, 4], "smile": mouth[:, 3]}
        for part, ours in tracks.items():
            offsets = all_offsets(shown[part], ours, 8)
            agreeing[part, name] = {offset.frames: offset.correlation for offset in offsets}
    best = {each: max(found, key=found.__getitem__) for each, found in agreeing.items()}
    # By which the clip's picture is late against its sound, as the aligned phonemes say, which no net of ours heard.
    late = round(float(np.median([best[part, "aligned"] for part in shown])))
    found: dict[str, Any] = {"the clip's picture is late by": late}
    for (part, name), by_offset in agreeing.items():
        near, there = (max(by_offset[middle + frames] for frames in (-1, 0, 1)) for middle in (0, late))
        found[f"{part}, {name}"] = {
            "r within one frame": round(near, 3), "r within one frame of the clip's own shift": round(there, 3),
            "best r": round(by_offset[best[part, name]], 3), "lips late by": best[part, name],
        }  # fmt: skip
    own = talking.closures(shown["opening"], phonemes, FPS, slack=0.1)
    found["closures of the speaker within 0.1 s"] = f"{own.closed}/{own.number}"
    return found


def rendered(path: Path, folder: Path) -> dict[str, Any]:
    """A portrait driven by the sound alone, looked at by the mesh; beside it the clip itself."""
    made = folder / "driven.mkv"
    drive("stylemask", source="29", audio=str(path), out=str(made))
    found = {}
    for name, file in (("portrait", made), ("clip", path)):
        reader = VideoReader(file)
        clip = Clip(reader, name, reader.rate, file)
        found[name] = {
            measure.__name__.replace("_", "-"): round(float(measure(clip)), 4)
            for measure in (
                talking.theval_lip_sync, talking.theval_silent_lips, talking.theval_lip_dynamics,
                talking.theval_brow_dynamics, talking.lip_offset, talking.lip_agreement,
            )
        }  # fmt: skip
    return found


def sheet(path: Path) -> None:
    """Every second frame of two people who say a sentence in hibari's voice, the mouth alone, under its phonemes."""
    text = "Maybe Bob will move my piano."
    reading = read_aloud(text, "hibari")
    sound = resample_poly(reading.samples, 2, 3)
    track = alignment.align(sound, text)
    pictures: list[np.ndarray] = []
    labels: list[str] = []
    with TemporaryDirectory() as folder:
        spoken = Path(folder) / "said.wav"
        wavfile.write(spoken, RATE, (sound * 32767).astype(np.int16))
        for person in ("29", "100"):
            made = Path(folder) / f"{person}.mkv"
            drive("stylemask", source=person, audio=str(spoken), out=str(made))
            for index, frame in enumerate(VideoReader(made)):
                if index % 2 == 0 and 6 <= index < 54:
                    now = index / float(FPS) * RATE
                    names = [each.name for each in track if each.start <= now < each.end]
                    pictures.append(frame[120:216, 80:176])
                    labels.append(" ".join(names).replace("_", "silence"))
    save_picture(path, contact_sheet(pictures, 12, labels))


def cost(net: VoiceNet) -> dict[str, Any]:
    """Speed and memory of listening to ten minutes."""
    sound = np.tile(speech.speak(SENTENCES[0], 1).audio, 200)[: 600 * RATE]
    listen(net, [sound[: 60 * RATE]])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    listen(net, np.array_split(sound, 6000))
    spent = time.process_time() - begun
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"times real time": round(600 / spent), "MB more for ten minutes than for one": round(grown / 1024, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", type=Path, default=builtin("voice"))
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--render", action="store_true", help="also drive a portrait by the real clip and look at it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path, help="only draw the picture of docs/sound.md to this file")
    given = parser.parse_args()
    if given.sheet:
        sheet(given.sheet)
        return
    net = load_voice(given.net)
    report: dict[str, Any] = {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads", "cost": cost(net)}
    cases = {"world speech": own(), **{f"eSpeak {voice}": by_espeak(voice) for voice in HELD_OUT}}
    cases["Festival ked"] = by_festival("ked_diphone")
    cases |= {f"world speech, {kind}": spoiled(kind) for kind in ("noise at 10 dB", "telephone")}
    cases |= {f"world speech, {kind}": spoiled(kind) for kind in ("mp3, 16 kbit/s", "30 dB softer")}
    for name, said in cases.items():
        try:
            report[name] = measured(net, said)
        except ValueError as error:  # a voice that is not installed
            report[name] = str(error)
        print(name, json.dumps(report[name]), flush=True)
    if given.clips:
        for name in (*WORDS, "speech-chinese.wav"):
            report[name] = real(net, given.clips / name)
            print(name, json.dumps(report[name]), flush=True)
        clip = given.clips / "real-speech-25fps.mp4"
        report["the speaker's mouth"] = speaker(net, clip)
        print("the speaker's mouth", json.dumps(report["the speaker's mouth"], indent=1), flush=True)
        if given.render:
            with TemporaryDirectory() as folder:
                report["rendered"] = rendered(clip, Path(folder))
            print("rendered", json.dumps(report["rendered"], indent=1), flush=True)
    if given.out:
        given.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
