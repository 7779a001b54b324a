def render_html(record, redact=False):
    return ""
