"""Names for keys: two words, none used twice before all have been used once."""

import random

FIRST = (
    "Amber Basil Cedar Coral Ebony Flint Ginger Hazel Indigo Jasper Lemon Maple Nickel Olive Pearl Quartz Ruby Saffron "
    "Topaz Velvet Violet Walnut Copper Silver Willow Zinc Cobalt Crimson Ivory Lilac Marble Scarlet Golden Frozen "
    "Hidden Silent Broken Ancient Distant Gentle Hollow Lonely Mighty Narrow Purple Rapid Sacred Tender Upper Vivid "
    "Western Young Bitter Clever Dusty Electric Famous Giant Happy Iron Jolly Royal Lucky Misty"
).split()
SECOND = (
    "Lighthouse Bakery Station Orchard Castle Library Harbor Museum Garden Bridge Tower Market Temple Village Stadium "
    "Factory Mountain River Desert Island Forest Canyon Meadow Glacier Volcano Lagoon Prairie Valley Tunnel Airport "
    "Hospital Theater Cathedral Monument Fountain Palace Fortress Windmill Cottage Mansion Stable Kitchen Cellar Attic "
    "Balcony Corridor Chapel Academy College Prison Arena Dock Quarry Mine Mill Farm Ranch Vineyard Greenhouse "
    "Observatory Laboratory Embassy Courthouse Hotel"
).split()


def key_names(count: int, rng: random.Random) -> list[str]:
    """`count` different names; words repeat only once every first and every second word has been used."""
    first, second = rng.sample(FIRST, len(FIRST)), rng.sample(SECOND, len(SECOND))
    rounds = range(-(-count // len(FIRST)))
    names = [f"{a} {second[(i + r) % len(second)]}" for r in rounds for i, a in enumerate(first)]
    return names[:count]
