"""The sliders of Edit: every factor of the drawn people, in groups and plain words."""

from __future__ import annotations

from typing import Any

from stylereel.world.factors import HIGH, INDEX, LOW, NAMES

GROUPS = {
    "Head": {"yaw": "Turn", "pitch": "Nod", "roll": "Tilt"},
    "Expression": {
        "smile": "Smile", "jaw": "Mouth open", "pucker": "Kiss", "press": "Lips pressed", "funnel": "Lips round",
        "brow_left": "Left brow", "brow_right": "Right brow", "blink_left": "Left eye closed",
        "blink_right": "Right eye closed", "gaze_x": "Look sideways", "gaze_y": "Look up or down",
    },
    "Face": {
        "age": "Age", "face_width": "Width of the face", "jaw_width": "Width of the jaw", "chin_length": "Chin",
        "cheeks": "Cheeks", "eye_size": "Size of the eyes", "eye_distance": "Distance of the eyes",
        "eye_tilt": "Tilt of the eyes", "nose_length": "Length of the nose", "nose_width": "Width of the nose",
        "mouth_width": "Width of the mouth", "lip_fullness": "Lips", "brow_thickness": "Brows", "ear_size": "Ears",
        "freckles": "Freckles", "makeup": "Make-up",
    },
    "Hair": {
        "hair_style": "Style", "hair_length": "Length", "hair_volume": "Volume", "curl": "Curls", "fringe": "Fringe",
        "parting": "Parting", "hairline": "Hairline", "beard": "Beard", "moustache": "Moustache",
    },
    "Colours": {
        "skin_tone": "Skin, light to dark", "skin_warmth": "Skin, cool to warm", "hair_light": "Hair, dark to light",
        "hair_red": "Hair, red", "hair_gray": "Hair, grey", "eye_light": "Eyes, dark to light",
        "eye_hue": "Eyes, green to blue", "lip_colour": "Lips", "clothes_hue": "Clothes",
        "clothes_light": "Clothes, dark to light", "backdrop_hue": "Background",
        "backdrop_light": "Background, dark to light",
    },
    "Things": {
        "glasses": "Glasses", "glasses_shape": "Their shape", "glasses_tint": "Dark lenses", "hat": "Hat",
        "hat_style": "Its kind", "earring": "Earring",
    },
}  # fmt: skip
HIDDEN = ("shift_x", "shift_y", "scale")  # the framing, which is always the same


def groups() -> list[dict[str, Any]]:
    """What the browser makes sliders of: groups of {name, label, low, high}; factors without a place come last."""
    placed = {name for group in GROUPS.values() for name in group}
    rest = {name: name.replace("_", " ").capitalize() for name in NAMES if name not in placed and name not in HIDDEN}
    return [
        {
            "title": title,
            "sliders": [
                {"name": name, "label": label, "low": float(LOW[INDEX[name]]), "high": float(HIGH[INDEX[name]])}
                for name, label in group.items()
            ],
        }
        for title, group in {**GROUPS, "The rest": rest}.items()
    ]
