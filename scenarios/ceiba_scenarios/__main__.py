"""python -m ceiba_scenarios"""

from ceiba_scenarios.cli import main

main()
