"""The commands: one file each; a function's signature is the command's flags, its docstring the help.

COMMANDS names that function as module:name; a module with dots is one of another room. A command whose module has
`flags(subject)` takes a subject first (a system, a network), which brings flags of its own, in groups: {keyword of the
function: {flag: (parameter, the function that documents it)}}; `subjects()` says what there is. A keyword `stages` is
the clock that the progress line watches. What the function returns is printed by the module's `lines(result)`, or a
line for each of its items.
"""

COMMANDS = {
    "drive": "drive:drive",
    "live": "live:live",
    "say": "say:say",
    "sample": "sample:sample",
    "demo": "demo:demo",
    "page": "stylereel.web.command:page",
    "systems": "systems:systems",
    "look": "look:look",
    "identify": "identify:identify",
    "invert": "invert:invert",
    "encode": "talk:encode",
    "decode": "talk:decode",
    "world sheet": "world:world_sheet",
    "world portrait": "world:world_portrait",
    "world clip": "world:world_clip",
    "world dataset": "world:world_dataset",
    "train family": "family:train_family",
    "prepare": "prepare:prepare",
    "train": "train:train",
    "eval exact": "evaluate:evaluate_exact",
    "eval": "evaluate:evaluate",
    "reproduce": "reproduce:reproduce",
    "measures": "measures:measures",
    "weights info": "weights:weights_info",
    "weights convert": "weights:weights_convert",
    "weights list": "weights:weights_list",
    "weights get": "weights:weights_get",
    "weights verify": "weights:weights_verify",
}
