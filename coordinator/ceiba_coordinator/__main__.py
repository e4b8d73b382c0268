"""python -m ceiba_coordinator"""

from ceiba_coordinator.cli import main

main()
