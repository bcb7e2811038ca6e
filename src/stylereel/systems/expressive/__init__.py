"""Expressive: a talking head as one W+ code and 35 numbers a frame, decoded, puppeteered and stored.

Oorloff, Yacoob: "Expressive Talking Head Video Encoding in StyleGAN2 Latent Space" (2022). Head pose is two angles (and
roll) that turn the identity's code, expression 32 channels of StyleSpace with offsets. No code was published; channels,
thresholds and schedules are in a supplement that is not public.

| paper | here |
|---|---|
| sensitivity of face regions to channels, thresholds, 32 channels | `search`, `training.recipe` |
| head pose by StyleFlow, analysis by synthesis | `pose` (mapping, linear, flow), `fit.search_angles` |
| 32 offsets a frame by optimisation, region losses, inter-frame terms | `fit.refine` |
| decode, puppeteer | `system.Expressive` |

Different from the paper, and why:
- The offsets are absolute over one base (the paper's text allows increments, too), so that frames decode in any order;
  for the built-in people the base is their code with the neutral head's pose and expression, so that one person's
  numbers are another's.
- The numbers of a frame come from one pass: a reader of the image gives motion factors, the mapping network their
  styles, a least squares fit the 32 channels (`channels`). Optimisation refines them where asked for.
- Pose goes through the mapping network, whose latents mean angles; `study.reproduce` compares it with a linear
  direction and with the flow.
- Which 32 of the channels that are local to a region: those that together carry the most of natural expressions.
"""

from stylereel.systems.expressive.channels import Channels, load_channels
from stylereel.systems.expressive.system import Expressive

__all__ = ["Channels", "Expressive", "load_channels"]
