"""Work on several machines with Ray: camera fleets, batches of recordings, and sweeps.

Ray is an extra (`pip install 'labkit[scale]'`) and is imported only when one of these runs.
"""
