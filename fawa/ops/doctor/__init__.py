"""`fawad doctor`: what is wrong with a set-up, in plain sentences, and what to do about it.

It reads the configuration that the daemon reads, looks at the machine, and asks the running daemon as its
clients do: through the public name. Each module has one kind of check, `findings` what a check is,
`examination` the list of all, `report` how what they found is told.
"""
