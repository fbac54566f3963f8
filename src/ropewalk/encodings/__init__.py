"""Every encoding, one import line each: this list is the registry."""

from ropewalk.encodings.absolute.learned import Learned as Learned
from ropewalk.encodings.bias.alibi import Alibi as Alibi
from ropewalk.encodings.mix.shaw import Shaw as Shaw
from ropewalk.encodings.rotary.rotary import Rotary as Rotary
