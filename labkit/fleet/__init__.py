"""The lab on more than one machine, on Ray: sweeps over many settings, and fleets of cameras.

Ray is an extra (`pip install 'labkit[scale]'`) and is imported only when one of these is used.
"""
