"""Every scaling, one import line each: this list is the registry. Nothing here imports torch."""

from ropewalk.scalings.linear import Linear as Linear
from ropewalk.scalings.ntk import NTK as NTK
from ropewalk.scalings.yarn import NTKByParts as NTKByParts
from ropewalk.scalings.yarn import Yarn as Yarn
