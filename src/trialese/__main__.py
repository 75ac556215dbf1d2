"""`python -m trialese`, which `torchrun` needs."""

from trialese.cli import main

main()
