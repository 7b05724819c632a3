"""Every sentence, in each language: a folder of TOML files a language, and the catalogue that reads them.

Nothing is known here of what the sentences are about.
"""
