"""Ropewalk gives Transformers their sense of position."""

from ropewalk.encodings import Rotary as Rotary
from ropewalk.errors import ConfigError as ConfigError
from ropewalk.errors import RopewalkError as RopewalkError
from ropewalk.errors import UnsupportedError as UnsupportedError
from ropewalk.notation import exported as exported
from ropewalk.notation import parse as parse
from ropewalk.notation import short as short
from ropewalk.scalings import NTK as NTK
from ropewalk.scalings import BaseChange as BaseChange
from ropewalk.scalings import DynamicNTK as DynamicNTK
from ropewalk.scalings import DynamicYarn as DynamicYarn
from ropewalk.scalings import Linear as Linear
from ropewalk.scalings import Llama3 as Llama3
from ropewalk.scalings import LongRope as LongRope
from ropewalk.scalings import NTKByParts as NTKByParts
from ropewalk.scalings import Proportional as Proportional
from ropewalk.scalings import RadixNTK as RadixNTK
from ropewalk.scalings import Rescale as Rescale
from ropewalk.scalings import Yarn as Yarn
from ropewalk.sites import Rotation as Rotation
from ropewalk.sites import parts as parts
from ropewalk.spectrum import Spectrum as Spectrum
from ropewalk.spectrum import for_length as for_length
from ropewalk.tokens import Tokens as Tokens
from ropewalk.tokens import append as append
from ropewalk.tokens import contiguous as contiguous
from ropewalk.tokens import packed as packed
from ropewalk.tokens import ragged as ragged
from ropewalk.tokens import shard as shard

__version__ = "0.1.0"
