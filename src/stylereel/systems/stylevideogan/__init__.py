"""StyleVideoGAN: endless face video from noise, learned from the W+ codes of one clip, moved to any person.

Fox, Tewari, Elgharib, Theobalt: "StyleVideoGAN: A Temporal Generative Model using a Pretrained StyleGAN" (2021). A
recurrent generator makes W+ sequences, a Wasserstein critic compares them with those of a clip, and the image
generator never runs in training. What a person's code has outside the clip's principal components is added to every
code: the motion of the one, the looks of the other.

| paper | here |
|---|---|
| data: eye-corner crops, low-passed; encoder; W+ | `codes.clip_codes` |
| H, P: start code and noise to animation codes, l_0 = i | `networks.Recurrence` |
| T: animation code to W+, a head a row | `networks.Mapper` |
| critic: frame layers, then 1-D convolutions | `networks.Critic` |
| gradient penalty (50), gradient angle penalty (100) | `networks.gradient_penalty`, `networks.angle_penalty` |
| 350 epochs, averaged weights | `training.Recipe`, `training.train` |
| offset through a PCA of 32 | `networks.VideoGenerator.offset`, `system.StyleVideoGAN.apply` |

Different from the paper, and why:
- Heads make coordinates in the codes' principal components, slow ones separate from quick ones and never outside of the
  clip's range, or rows of W+ as in the paper (`Recipe.reduced`); rows that equal each other in all codes share a head,
  and rows that never change have none.
- The recurrent cells begin slow (`networks.Recurrence`): from PyTorch's start every motion trembles and stays so.
- The critic sees codes and four differences in time, each at a deviation of 1 (`networks.Critic`): in the codes
  themselves blinks and trembling are too small to see.
- All but one of 16 sequences go on where an earlier one ended (`training.Ends`): what is learned from start codes
  alone comes to rest after a second or trembles.
- A term for second moments (`training.Moments`) holds range, speed and jitter, separately for fresh sequences.
- Batch normalisation is measured anew for the averaged weights, whose activations are not those of the last ones.
- A finish without the critic (`training.finish`) brings moments and distributions to the clip's.
- The offset to another person is not at right angles, but weighed by how the generator's people are spread
  (`networks.VideoGenerator.offset`): people differ along a clip's components by looks too.
- The angle penalty runs at every fourth step with four times the weight, which saves time.
"""

from stylereel.systems.stylevideogan.networks import VideoConfig, VideoGenerator, load_model
from stylereel.systems.stylevideogan.system import StyleVideoGAN

__all__ = ["StyleVideoGAN", "VideoConfig", "VideoGenerator", "load_model"]
