"""The figures of schedules and telemetry are matplotlib's, imported only when one is drawn."""


def figure_class():
    """The `Figure` of matplotlib, or an ImportError that says how to install it."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] != "matplotlib":
            raise
        raise ImportError("A plot needs matplotlib. Install it with `pip install tf-lamb[plot]`.") from None
    return Figure
