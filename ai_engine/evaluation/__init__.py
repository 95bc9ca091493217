"""How good a package is, by a command that anybody can repeat.

A package is run as in the product, by :class:`ai_engine.engine.Engine`, on cases it was not trained on; the result is
Dice per patient with a bootstrap interval, the worst cases, what happens when only the declared slice step, the grid or
the attitude of the head changes, a JSON file and a sheet of pictures.

:mod:`~ai_engine.evaluation.metrics` are pure numbers, :mod:`~ai_engine.evaluation.behaviour` makes the variants of a
volume, :mod:`~ai_engine.evaluation.sheet` draws, :mod:`~ai_engine.evaluation.run` ties them together.
"""
