"""One self-contained HTML page from what train, verify, bench and eval wrote.

`sources` reads and checks the files, each section is a file that turns them into the blocks of
`blocks`, `charts` draws SVG, and `page` puts it together. Nothing here measures anything: a figure
that no file holds is not on the page.
"""
