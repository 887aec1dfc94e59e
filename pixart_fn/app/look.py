"""How the page looks: gradio's plainest theme with the system's fonts, and a few rules of CSS."""

from __future__ import annotations

from typing import Any

import gradio as gr

CSS = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important;
  padding: 12px min(16px, 2vw) 40px !important; }
.main.fillable { padding: 12px min(16px, 1vw) !important; }
[data-testid="status-tracker"] { display: none !important; }
#title { font-size: 1.35rem; font-weight: 650; margin: 0; }
#title small { font-weight: 400; font-size: .85rem; color: var(--body-text-color-subdued); margin-left: .6rem; }
#asking { align-items: flex-end; }
#asking button { min-width: 108px; height: 42px; margin-bottom: 12px; }
.gradio-container main { padding: 0 !important; max-width: none !important; width: 100% !important; }
#main { align-items: flex-start; gap: 20px; }
#stage p { margin: 0 0 10px; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
#stage p.wrong { color: #b42318; font-weight: 500; }
.dark #stage p.wrong { color: #fda29b; }
#stage progress { display: block; appearance: none; width: 100%; height: 6px; margin: 0 0 12px; border: none;
  border-radius: 3px; overflow: hidden; background: var(--border-color-primary); }
#stage progress::-webkit-progress-bar { background: var(--border-color-primary); }
#stage progress::-webkit-progress-value { background: var(--color-accent); }
#stage progress::-moz-progress-bar { background: var(--color-accent); }
#stage img { display: block; width: 100%; max-width: 512px; border: 1px solid var(--border-color-primary);
  border-radius: 8px; }
#stage .nothing { display: grid; place-items: center; height: 260px; border: 1px dashed var(--border-color-primary);
  border-radius: 8px; }
#stage .nothing p { margin: 0; }
#details table { width: 100%; border-collapse: collapse; font-size: .85rem; }
#details table, #details th, #details td, #details tr { border: none !important; background: none !important; }
#details th { text-align: left; font-weight: 500; color: var(--body-text-color-subdued); padding: 3px 16px 3px 0;
  white-space: nowrap; vertical-align: top; width: 1%; }
#details td { padding: 3px 0; overflow-wrap: anywhere; }
#details pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; margin: 8px 0 0; padding: 10px 12px;
  border-radius: 6px; background: var(--background-fill-secondary); }
#details summary { cursor: pointer; font-size: .85rem; margin-top: 8px; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)) !important;
  grid-auto-rows: auto !important; padding-top: 28px; }
#gallery .grid-wrap { max-height: 340px; min-height: 0; }
.html-container { padding: 0 !important; }
#randomise { display: flex; align-items: center; }
#gallery .caption-label { display: none; }
button:focus-visible, input:focus-visible, textarea:focus-visible, summary:focus-visible, [tabindex]:focus-visible {
  outline: 2px solid var(--color-accent) !important; outline-offset: 2px; }
@media (max-width: 640px) {
  #asking > .form { min-width: 100% !important; }
  #asking button { flex: 1 1 0 !important; margin-bottom: 0; }
}
"""


def look() -> dict[str, Any]:
    """Return the arguments of gradio's `launch` that say how the page looks."""
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.gray,
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    grey = "*neutral_500"  # dark enough on white for small text, which gradio's own isn't
    theme = theme.set(body_text_color_subdued=grey, block_info_text_color=grey, input_placeholder_color=grey)
    return {"theme": theme, "css": CSS}
