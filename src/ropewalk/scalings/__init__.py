"""Every scaling, one import line each: this list is the registry. Nothing here imports torch."""

from ropewalk.scalings.base_change import BaseChange as BaseChange
from ropewalk.scalings.dynamic_ntk import DynamicNTK as DynamicNTK
from ropewalk.scalings.hope import Hope as Hope
from ropewalk.scalings.linear import Linear as Linear
from ropewalk.scalings.llama3 import Llama3 as Llama3
from ropewalk.scalings.longrope import LongRope as LongRope
from ropewalk.scalings.ntk import NTK as NTK
from ropewalk.scalings.ntk_by_parts import NTKByParts as NTKByParts
from ropewalk.scalings.proportional import Proportional as Proportional
from ropewalk.scalings.radix_ntk import RadixNTK as RadixNTK
from ropewalk.scalings.rescale import Rescale as Rescale
from ropewalk.scalings.yarn import DynamicYarn as DynamicYarn
from ropewalk.scalings.yarn import Yarn as Yarn
