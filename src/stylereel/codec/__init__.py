"""A talking head as a file: motion, identity, crops and sound in a few hundred bits a second (docs/codec.md).

`talk` writes and reads files and streams, `vsei` maps motion to the standard's messages, `entropy` codes integers,
`tracks` makes integers of motion, `packets` is the container.
"""

from stylereel.codec.packets import Header, Reference
from stylereel.codec.talk import Reader, Receiver, Sizes, Talk, Writer, header_of, read, write

__all__ = ["Header", "Reader", "Receiver", "Reference", "Sizes", "Talk", "Writer", "header_of", "read", "write"]
