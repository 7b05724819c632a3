"""What differs between releases of torch: its private parts, in one module that checks itself.

No other folder names a private part of torch that may be gone in another release.
"""
