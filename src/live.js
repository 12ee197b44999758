if (!customElements.get("aside-live")) {
  // Not `node.id`, which in a form may be the field named `id`. For the same reason, `remove` and `children` are not used.
  const id = node => node.getAttribute?.("id")
  // Makes the children of one element equal to those of another, and keeps equal nodes.
  const morph = (from, to) => {
    const fresh = [...to.childNodes], ids = fresh.map(id)
    let old = from.firstChild
    // Removes the nodes before one that stays.
    const drop = stays => {
      while (old && !stays?.(old)) [old] = [old.nextSibling, from.removeChild(old)]
    }
    for (const node of fresh) {
      const like = it => it?.nodeName == node.nodeName && id(it) == id(node)
      const same = id(node) ? [...from.childNodes].find(like) : like(old) && old
      if (!same) {
        from.insertBefore(node, old)
        continue
      }
      drop(it => it == same || id(it) && ids.includes(id(it)))
      if (old == same) old = old.nextSibling
      // Only `moveBefore` keeps the focus, and not every browser has it.
      else (from.moveBefore || from.insertBefore).call(from, same, old)
      if (node.data != same.data) same.data = node.data
      // The user opens and closes it.
      if ("open" in same) node.open = same.open
      for (const { name, value } of node.attributes || []) same.getAttribute(name) == value || same.setAttribute(name, value)
      for (const { name } of [...same.attributes || []]) node.hasAttribute(name) || same.removeAttribute(name)
      morph(same, node)
    }
    drop()
  }
  customElements.define("aside-live", class extends HTMLElement {
    wait = 500
    // Closes the stream of a page in the back/forward cache, which would hold a connection.
    hide = addEventListener("pagehide", () => this.disconnectedCallback())
    show = addEventListener("pageshow", event => event.persisted && this.connectedCallback())
    // Listens only in a document, and only if the state is not finished.
    connectedCallback() {
      this.matches(":root [src]") && this.listen()
    }
    disconnectedCallback() {
      clearTimeout(this.timer)
      this.stream?.close()
    }
    listen() {
      const stream = this.stream = new EventSource(this.getAttribute("src"))
      stream.onopen = () => {
        this.wait = 500
        this.lost = this.lost?.remove()
      }
      stream.onmessage = event =>
        morph(this, Object.assign(document.createElement("template"), { innerHTML: event.data }).content)
      stream.addEventListener("end", stream.close)
      stream.onerror = () => {
        stream.close()
        this.timer = setTimeout(() => this.listen(), this.wait * (1 + Math.random()))
        if (this.wait < 15e3) this.wait *= 2
        this.lost ||= (this.insertAdjacentHTML("beforeend",
          "<p class=aside-lost role=status>Connection lost. Trying again…"), this.lastChild)
      }
    }
  })
}
