"""`looopctl watch`: the terminal interface, in the process of the verb. Reads; only an answer is written.

`text`, `model`, `state` and `panes` are pure and know no urwid; `widgets` and `app` put them on a terminal.
"""
