import pytest
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from ropewalk.report import style

READABLE = 4.5  # WCAG 2, level AA, text


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21, rel=1e-12)
    assert contrast("#777777", "#777777") == 1


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("name", ["ink", "muted", "chosen", "unmodified", "truncated"])
def test_text_is_readable_in_both_schemes(name: str, scheme: int) -> None:
    behind = [style.THEME[ground][scheme] for ground in ("card", "ground", "zone")]
    assert min(contrast(style.THEME[name][scheme], ground) for ground in behind) >= READABLE


@pytest.mark.parametrize("scheme", [0, 1])
def test_curves_stand_out_in_both_schemes(scheme: int) -> None:
    behind = [style.THEME[ground][scheme] for ground in ("card", "zone")]
    assert min(contrast(style.THEME[name][scheme], g) for name in style.OTHERS for g in behind) >= 3


def test_cells_are_readable_at_every_share() -> None:
    ramp = LinearSegmentedColormap.from_list("shares", style.SHARES)
    fills = [ramp(i / 64)[:3] for i in range(65)]
    assert min(contrast(style.ink_on(fill), fill) for fill in fills) >= READABLE


def test_colours_can_be_told_apart_by_name() -> None:
    lights = [light for light, _ in style.THEME.values()]
    assert len(set(lights)) == len(lights)
    assert not {*style.SHARES, style.ON_DARK, style.ON_LIGHT} & set(lights)
