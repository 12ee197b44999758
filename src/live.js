if (!customElements.get("aside-live")) {
  // Not `node.id`: of a form that is its field of that name. So are `remove` and `children`, which are not used either.
  const id = node => node.getAttribute?.("id")
  // Makes the children of one element like those of another, and leaves alone what is.
  const morph = (from, to) => {
    const fresh = [...to.childNodes], ids = fresh.map(id)
    let old = from.firstChild
    // Removes what lies before a node that stays.
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
      // Only the first leaves the focus where it is, and not every browser has it.
      else (from.moveBefore || from.insertBefore).call(from, same, old)
      if (node.data != same.data) same.data = node.data
      // The visitor opens and shuts.
      if ("open" in same) node.open = same.open
      for (const { name, value } of node.attributes || []) same.getAttribute(name) == value || same.setAttribute(name, value)
      for (const { name } of [...same.attributes || []]) node.hasAttribute(name) || same.removeAttribute(name)
      morph(same, node)
    }
    drop()
  }
  customElements.define("aside-live", class extends HTMLElement {
    wait = 500
    // A page that the browser keeps, because its visitor may come back to it, would hold a connection.
    hide = addEventListener("pagehide", () => this.disconnectedCallback())
    show = addEventListener("pageshow", event => event.persisted && this.connectedCallback())
    // Only in a page, and while there is more to come.
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
