"""StyleFaceV: appearance and pose of a face taken apart on StyleGAN3, and poses sampled without end.

Qiu, Jiang, Zhu, Wu, Liu: "StyleFaceV: Face Video Generation via Decomposing and Recomposing Pretrained StyleGAN3"
(2022). A landmark net and a pose encoder make 64 numbers of a frame that say where the head is and what it does,
another encoder makes an appearance map, and a fusion network makes W+ of both for a frozen StyleGAN3-R, in which a head
moves freely in the frame. An LSTM samples poses.

| paper | the authors' networks | small ones for the built-in StyleGAN3-R |
|---|---|---|
| landmark maps, pose encoder | `networks.LandmarkNet`, `networks.PoseEncoder` | the face net, `model.PoseNet` |
| appearance encoder, fusion to W+ | `networks.AppearanceNet` | `model.AppearanceNet`, `model.Fusion` |
| motion sampler | `networks.MotionLSTM` | `model.PoseSampler` |
| discriminators of frames and of motion | `networks.FrameDiscriminator`, `networks.MotionDiscriminator` | `critics` |
| weights | `files`; training in `paper` | built in; `training`, from people of the world (`data`) |
| use | `published.PublishedStyleFaceV` | `system.StyleFaceV` |

Different from the authors' code, and why:
- Any batch size. Theirs takes the batch for the number of frames, and its test command leaves normalisation in
  training mode, so that each image is normalised by itself: `normalisation="image"` does that on purpose, whatever
  the batch.
- The landmark net stays in evaluation mode. In theirs its running statistics drift during training, so that what a pose
  encoder sees depends on when; the drifted file is taken only where there is no wing.ckpt.
"""

from stylereel.systems.stylefacev.files import (
    Networks,
    load_appearance,
    load_folder,
    load_frame_discriminator,
    load_landmarks,
    load_motion,
    load_motion_discriminator,
    load_pose,
)
from stylereel.systems.stylefacev.networks import (
    AppearanceNet,
    FrameDiscriminator,
    LandmarkNet,
    MotionDiscriminator,
    MotionLSTM,
    PoseEncoder,
)

__all__ = [
    "AppearanceNet",
    "FrameDiscriminator",
    "LandmarkNet",
    "MotionDiscriminator",
    "MotionLSTM",
    "Networks",
    "PoseEncoder",
    "load_appearance",
    "load_folder",
    "load_frame_discriminator",
    "load_landmarks",
    "load_motion",
    "load_motion_discriminator",
    "load_pose",
]
