{
  const { port, build, rendered, reloads } = document.currentScript.dataset
  let styles = +rendered, stream, box
  // Styles that a script makes are allowed by every Content-Security-Policy.
  const sheet = new CSSStyleSheet()
  sheet.replaceSync(`
    :host { all: initial }
    div { position: fixed; z-index: 2147483647; inset: auto 0 0 0; max-height: 80vh; overflow: auto; padding: 1rem;
      background: #1d1f21; color: #e8e8e8; font: 14px/1.5 system-ui, sans-serif; border-top: 4px solid #c33 }
    div.note { inset: auto 1rem 1rem auto; max-width: calc(100vw - 4rem); padding: .4rem .8rem; border: 0; border-radius: 6px;
      white-space: pre-wrap }
    div[hidden] { display: none }
    pre { margin: .75rem 0 0; font: 13px/1.45 ui-monospace, monospace; white-space: pre; overflow-x: auto }
    button { float: right; font: inherit }
    b, .bold { font-weight: 700 } .red { color: #ff7b72 } .yellow { color: #e3b341 } .green { color: #7ee787 }
    .blue, .cyan { color: #79c0ff } .magenta { color: #d2a8ff }`)
  const show = (html, isNote) => {
    if (!box) {
      const host = document.documentElement.appendChild(document.createElement("aside-dev"))
      const root = host.attachShadow({ mode: "open" })
      root.adoptedStyleSheets = [sheet]
      box = root.appendChild(document.createElement("div"))
      box.setAttribute("role", "status")
      box.addEventListener("click", event => event.target.nodeName == "BUTTON" && (box.hidden = true))
    }
    if (box.shown == html) return
    box.shown = box.innerHTML = html
    box.className = isNote ? "note" : ""
    box.hidden = !html
  }
  const exchangeStyles = () => {
    for (const link of document.querySelectorAll("link[rel~=stylesheet]")) {
      const url = new URL(link.href)
      if (url.origin != location.origin) continue
      url.searchParams.set("changed", styles)
      const fresh = link.cloneNode()
      fresh.href = url
      fresh.onload = fresh.onerror = () => link.remove()
      link.after(fresh)
    }
  }
  const reload = key => {
    if (reloads != "true") return show("The site has changed. <b>Reload</b> to send the form again.", true)
    // A page from the browser's cache is as old after its reload. It is reloaded once for each change.
    const name = "aside dev " + location.pathname + location.search, attempt = key + " " + rendered
    if (sessionStorage.getItem(name) == attempt) return
    sessionStorage.setItem(name, attempt)
    location.reload()
  }
  const follow = event => {
    const state = JSON.parse(event.data)
    if (state.failure) show(`<button>Close</button><b>${state.title.replaceAll("<", "&lt;")}</b><pre>${state.failure}</pre>`)
    else show(state.progress, true)
    if (!state.serves) return
    if (state.build > build || state.changed > rendered) return reload(`${state.build} ${state.changed}`)
    if (state.styles > styles) {
      styles = state.styles
      exchangeStyles()
    }
  }
  // A browser has few connections for each server: only visible pages use one.
  const connect = () => {
    stream?.close()
    if (document.hidden) return
    stream = new EventSource(`http://${location.hostname}:${port}/`)
    stream.onmessage = follow
  }
  document.addEventListener("visibilitychange", connect)
  connect()
}
