"""What happens over the steps of a training: a script is run as it is, watched, and judged.

`launching` runs a script, `watching` sees what torch is asked to do, `ledger` keeps a few numbers of each step,
`losses` reads the live graph of a loss, `criteria` turns the ledger into findings. A step that went wrong is run again
under the recorder by `replaying`, in a process that `confinement` lets compute and not act, and `births` finds where
the first number that is not finite was made.
"""
