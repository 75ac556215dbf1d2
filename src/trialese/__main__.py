"""`python -m trialese`, which `torchrun` needs."""

from trialese.cli.main import main

main()
