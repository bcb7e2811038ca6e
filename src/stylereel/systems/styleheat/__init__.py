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
| synthesised triples; stages of training with sound | `talking.Triples`; `hearing.train_audio`, `.train_audio_joint` |
| identify, extract, apply | `system.StyleHEAT` |
| study of the feature space, layers, calibration, domain loss | `study.reproduce` |

Different from the paper, and why:
- What moves is the feature map and the image so far (see `state`); else what the blocks below 64 px have drawn stays
  behind as a ghost. With the authors' weights the image so far stays, as they learned it.
- A flow counts from the centres of pixels. The authors' code mixes two grids, which their weights have learned
  (`grid="corners"`).
- The mapping network has the convolutions of the published weights, not the paper's three linear layers, and the
  calibration is conditioned on the motion as theirs is; `CalibrationConfig(descriptor=0)` is the paper's form.
- The built-in family is driven by the world's motion factors, and its window says besides what the source shows itself
  (see `motion`).
- Its networks see besides how the mean head of the world makes the movement (`guide`), and the flow is that head's with
  a change. `WarperConfig(guide=False)` and `CalibrationConfig(guide=False)` are the paper's form, which has to find
  the face in the image by itself. In `finest` the calibration's map of 64 px reaches its heads directly.
- Its generator can show the source with the target's motion, and the world knows the exact flow and draws the true
  image, all of which is supervision (`training.QUICK`). The paper's losses are `training.PAPER`, the authors' code
  `training.CODE`.
- Curves may move the head in the frame: the repaired state is moved as a whole.
- The audio warper sees what the video warper moved, before any repair, and its calibration begins as that of the
  video; in the built-in family lips follow sound by `family.voice` unless its files are given.
"""
