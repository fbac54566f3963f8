"""Every encoding, one import line each: this list is the registry."""

from ropewalk.encodings.rotary.rotary import Rotary as Rotary
