"""python -m ceiba_node"""

from ceiba_node.cli import main

main()
