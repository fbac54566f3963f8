"""Every map from Tokens to Tokens, one import line each: this list is the registry."""

from ropewalk.remaps.grouped import Grouped as Grouped
from ropewalk.remaps.pose import Pose as Pose
from ropewalk.remaps.randomised import Randomised as Randomised
from ropewalk.remaps.streaming import Streaming as Streaming
from ropewalk.remaps.warps import Piecewise as Piecewise
from ropewalk.remaps.warps import Power as Power
from ropewalk.remaps.warps import Saturating as Saturating
