"""StyleHEAT: one portrait moved by video, by sound, or edited while it moves, by warping a feature map of StyleGAN2.

Yin et al., "StyleHEAT: One-Shot High-Resolution Editable Talking Face Generation via Pre-trained StyleGAN" (2022).
The 64 px feature map of an inverted portrait is moved by a flow that follows from motion or sound, repaired by a
calibration network, and drawn by the rest of the frozen generator.

| paper | here |
|---|---|
| motion generator for video and for sound: windows, AdaIN hourglass, flow at 64 px | `networks.Warper` |
| warping | `flow.warp` |
| calibration network | `networks.Calibration` |
| SyncNet | `expert.Expert` |
| losses: visual, local, domain, adversarial | `losses` |
| stages of training with video | `training.train_video`, `training.train_joint` |
| identify, extract, apply | `system.StyleHEAT` |

Different from the paper, and why:
- What moves is the feature map and the image so far (see `state`); else what the blocks below 64 px have drawn stays
  behind as a ghost. With the authors' weights the image so far stays, as they learned it.
- A flow counts from the centres of pixels. The authors' code mixes two grids, which their weights have learned
  (`grid="corners"`).
- The mapping network has the convolutions of the published weights, not the paper's three linear layers, and the
  calibration is conditioned on the motion as theirs is; `CalibrationConfig(descriptor=0)` is the paper's form.
- The built-in family is driven by the world's motion factors, and its window says besides what the source shows itself
  (see `motion`).
- Its generator can show the source with the target's motion, and the world knows the exact flow: both are supervision
  (`training.QUICK`). The paper's losses are `training.PAPER`, the authors' code `training.CODE`.

Not yet here: training with sound, the studies, and built-in weights; the system is not registered before it has these.
"""
