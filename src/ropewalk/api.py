"""Everything that a user types, behind `import ropewalk`."""

from ropewalk import masks as masks
from ropewalk.attention.attend import attend as attend
from ropewalk.attention.attend import choose as choose
from ropewalk.attention.cache import Cache as Cache
from ropewalk.attention.linear import attend_linear as attend_linear
from ropewalk.attention.linear import recur_linear as recur_linear
from ropewalk.attention.module import Positions as Positions
from ropewalk.attention.module import initial as initial
from ropewalk.attention.reference import embed as embed
from ropewalk.attention.reference import logits as logits
from ropewalk.attention.reference import rotate as rotate
from ropewalk.encodings.layers import alternate as alternate
from ropewalk.encodings.registry import *
from ropewalk.errors import ConfigError as ConfigError
from ropewalk.errors import RopewalkError as RopewalkError
from ropewalk.errors import UnsupportedError as UnsupportedError
from ropewalk.media import Image as Image
from ropewalk.media import Text as Text
from ropewalk.media import Video as Video
from ropewalk.media import grid as grid
from ropewalk.media import multimodal as multimodal
from ropewalk.media import pack as pack
from ropewalk.media import pad as pad
from ropewalk.media import position_delta as position_delta
from ropewalk.notation import exported as exported
from ropewalk.notation import parse as parse
from ropewalk.remaps import *
from ropewalk.rotation import Rotation as Rotation
from ropewalk.scalings import *
from ropewalk.sites import parts as parts
from ropewalk.spectrum import Spectrum as Spectrum
from ropewalk.spectrum import for_length as for_length
from ropewalk.tokens import Tokens as Tokens
from ropewalk.tokens import append as append
from ropewalk.tokens import contiguous as contiguous
from ropewalk.tokens import packed as packed
from ropewalk.tokens import ragged as ragged
from ropewalk.tokens import select as select
from ropewalk.tokens import shard as shard
from ropewalk.written import short as short
