"""Colours of a terminal with a palette of 256."""

BACKGROUND, FOREGROUND = "#16181d", "#d7dae0"
_FIRST = (  # black to white, and their bright ones
    *("#3b4048", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0"),
    *("#7f848e", "#ff7b86", "#b5e890", "#ffd68a", "#82c6ff", "#de94f5", "#70d5e0", "#ffffff"),
)
_LEVELS = (0, 95, 135, 175, 215, 255)


def hex_colour(number: int) -> str:
    """Return the colour of a number from 0 to 255, as #rrggbb."""
    if number < len(_FIRST):
        return _FIRST[number]
    if number >= 232:
        return f"#{8 + 10 * (number - 232):02x}" + f"{8 + 10 * (number - 232):02x}" * 2
    cube = number - 16
    return "#" + "".join(f"{_LEVELS[cube // by % 6]:02x}" for by in (36, 6, 1))
