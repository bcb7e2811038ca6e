"""StyleMask: re-enactment by mixing StyleSpace channels with learned masks.

Bounareli, Tzelepis, Argyriou, Patras, Tzimiropoulos: "StyleMask: Disentangling the Style Space of StyleGAN2 for Neural
Face Reenactment" (2022). Source and target faces are given as style vectors; a small network for each layer looks at
their difference and says, channel by channel, how much comes from the target. Identity stays, pose and expression come
from the target.

| paper | here |
|---|---|
| mask m = f(s_source - s_target), one f a layer | `networks.MaskNet`, `networks.MaskNets` |
| s = m s_target + (1 - m) s_source | `networks.MaskNets.forward` |
| shape, identity and recurrent cycle losses, no paired data | `training.shape_loss`, `training.train` |
| identify, extract, apply | `system.StyleMask` |
| tables: S against W, a net a layer against one, with against without the cycle | `study.reproduce` |

Where the paper and the authors' code disagree both readings are here: `training.PAPER` and `training.CODE`.

Different from the paper, and why:
- The built-in family has its own face: landmarks, factors and identity come from the built-in nets instead of DECA and
  ArcFace, and the ideal landmarks of "source with the target's motion" are the world's exact ones instead of a 3-D
  model's estimate. It has no mesh, so its shape loss is always that of landmarks.
- A real clip drives the built-in family through its motion coefficients: the numbers of its latents mean the world's
  factors, so the mapping network gives the target codes of a neutral head in that motion. (Another generator in the
  same framing gets a drawing of that head through its encoder.) Generators of real faces take the inverted frames
  themselves, as in the paper.
- Channels that carry backdrop, clothes or light rather than movement stay the source's, whatever their masks say
  (`effects`, measured behind training). The authors' files know nothing of this and mix as published.
- Codes of an inverted image are not truncated a second time (the authors' code does, which pulls them to the mean
  face).
"""

from stylereel.systems.stylemask.effects import measured
from stylereel.systems.stylemask.networks import MaskConfig, MaskNet, MaskNets, load_masks
from stylereel.systems.stylemask.system import StyleMask
from stylereel.systems.stylemask.training import CODE, PAPER, QUICK, DecaFaces, Perception, Settings, WorldFaces, train

__all__ = [
    "CODE",
    "PAPER",
    "QUICK",
    "DecaFaces",
    "MaskConfig",
    "MaskNet",
    "MaskNets",
    "Perception",
    "Settings",
    "StyleMask",
    "WorldFaces",
    "load_masks",
    "measured",
    "train",
]
