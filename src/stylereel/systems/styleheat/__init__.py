"""StyleHEAT: one portrait moved by video, by sound, or edited while it moves, by warping a feature map of StyleGAN2.

Yin et al., "StyleHEAT: One-Shot High-Resolution Editable Talking Face Generation via Pre-trained StyleGAN" (2022).
The 64 px feature map of an inverted portrait is moved by a flow that follows from motion or sound, repaired by a
calibration network, and drawn by the rest of the frozen generator.
"""
