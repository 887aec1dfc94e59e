"""Sphinx's configuration of the documentation site: `python -m sphinx -W -b html notebooks site`.

The site needs no network, neither when it is built nor when it is read.
"""

import sys
from pathlib import Path

import pixart_fn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_site"))

# The reference calls the package px, as its users do.
MODULES = (
    "controlnet edges edit guidance lora plots prompts rng schedule solvers t5 testing train transformer tree types "
    "vae train.adapt train.data train.distill train.evaluate train.job train.loop train.losses train.objective "
    "train.optim train.recipe train.reparameterise train.times train.watch "
    "train.data.authors train.data.controls train.data.order train.data.prepare train.data.prepared train.data.sources"
)
sys.modules["px"] = pixart_fn
for name in MODULES.split():
    module = pixart_fn
    for part in name.split("."):
        module = getattr(module, part)
    sys.modules[f"px.{name}"] = module

project = "pixart_fn"
author = "the authors of pixart_fn"
version = release = pixart_fn.__version__
root_doc = "index"
smartquotes_action = "D"  # dashes; quotation marks stay as the code has them
exclude_patterns = ["_site", "**.ipynb_checkpoints"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "docstrings", "formulas"]
html_theme = "sphinx_book_theme"
html_title = "pixart_fn"
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_theme_options = {
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
}
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

# The notebooks are shown with the outputs that are stored in them; the tests run them.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # which would be read from the web
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_type_aliases = {
    name: name for name in ("Array", "Denoiser", "Json", "Key", "NumPyArray", "Scale", "Tree", "VarianceDenoiser")
}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
html_math_renderer = "mathml"
