"""Makes `optimum-cli export art` known: optimum reads every file of this namespace.

Neither this folder nor those above it may have an __init__.py, or optimum would be hidden.
"""

from optimum.commands.export.base import ExportCommand

from art_export.optimum_command import ArtExportCommand

REGISTER_COMMANDS = [(ArtExportCommand, ExportCommand)]
