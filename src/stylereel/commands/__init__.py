"""The commands: one file each; a function's signature is the command's flags, its docstring the help."""
