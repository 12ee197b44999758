customElements.get("aside-live") || customElements.define("aside-live", (() => {
  // Removes what lies before a node that stays, and gives that one.
  const drop = (node, stays) => {
    while (node && !stays(node)) {
      const next = node.nextSibling
      node.remove()
      node = next
    }
    return node
  }
  // Makes the children of one element like those of another, and leaves alone what is.
  const morph = (from, to) => {
    const fresh = [...to.childNodes], ids = new Set(fresh.map(node => node.id || 0))
    let old = from.firstChild
    for (const node of fresh) {
      const like = it => it && it.nodeName == node.nodeName && it.id == node.id
      const same = node.id ? [...from.children].find(like) : like(old) && old
      if (!same) {
        from.insertBefore(node, old)
        continue
      }
      old = drop(old, it => it == same || ids.has(it.id))
      if (old == same) old = old.nextSibling
      else from.insertBefore(same, old)
      if (node.data != same.data) same.data = node.data
      if (!node.attributes) continue
      for (const { name, value } of node.attributes) same.getAttribute(name) == value || same.setAttribute(name, value)
      for (const { name } of [...same.attributes]) name == "open" || node.hasAttribute(name) || same.removeAttribute(name)
      morph(same, node)
    }
    drop(old, () => false)
  }
  return class extends HTMLElement {
    connectedCallback() {
      this.wait = 500
      this.hasAttribute("src") && this.listen()
    }
    disconnectedCallback() {
      clearTimeout(this.timer)
      this.stream?.close()
    }
    listen() {
      const stream = this.stream = new EventSource(this.getAttribute("src"))
      stream.onopen = () => {
        this.wait = 500
        this.lost?.remove()
      }
      stream.onmessage = event => {
        const fresh = document.createElement("template")
        fresh.innerHTML = event.data
        morph(this, fresh.content)
      }
      stream.addEventListener("end", () => stream.close())
      stream.onerror = () => {
        stream.close()
        this.lost ??= Object.assign(document.createElement("p"), { className: "aside-lost", role: "status" })
        this.lost.textContent = "Connection lost. Trying again…"
        this.append(this.lost)
        this.timer = setTimeout(() => this.listen(), this.wait * (1 + Math.random()))
        this.wait = Math.min(2 * this.wait, 15e3)
      }
    }
  }
})())
