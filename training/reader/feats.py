import torch, torch.nn.functional as F, math, numpy as np
def gauss1(sig, dev=None):
    r=max(1,int(2.5*sig+.5)); x=torch.arange(-r,r+1).float(); k=torch.exp(-.5*(x/sig)**2); return k/k.sum()
def smooth(x,sig):  # x [C,X,Y,Z], sig per axis in voxels
    c=x.shape[0]; x=x[None]
    for a,s in enumerate(sig):
        if s<0.3: continue
        k=gauss1(s); r=len(k)//2; n=x.shape[2+a]
        i=torch.arange(n); T=torch.zeros(n,n)
        for j,kk in enumerate(k): 
            o=i+j-r; ok=(o>=0)&(o<n); T[i[ok],o[ok]]+=kk
        x=torch.movedim(torch.movedim(x,2+a,-1)@T.T,-1,2+a)
    return x[0]
def central(v):
    d,y,z=v[10],v[11],v[12]
    return (d<.5)&(y.abs()<.6)&(z.abs()<.35)
def features(v,sz):
    """v [13,X,Y,Z] float -> [F,X,Y,Z], globals [G]"""
    ms,cs=v[3:4].clone(),v[4:5].clone(); msr,csr=v[8:9],v[9:10]
    cen=central(v)
    def norm(x,s):
        sel=cen&(s[0]>.5)
        if sel.sum()<50: sel=s[0]>.5
        if sel.sum()<50: return torch.zeros_like(x),None,[0.,0.]
        q=torch.quantile(x[0][sel][::3],torch.tensor([.25,.5,.75])); return ((x-q[1])/(q[2]-q[0]+.02)),q,[float(q[1]),float(q[2]-q[0])]
    m,qm,gm=norm(v[0:1],ms); w,qw,gw=norm(v[2:3],cs)
    mr=(v[5:6]-qm[1])/(qm[2]-qm[0]+.02) if qm is not None else torch.zeros_like(m)
    wr=(v[7:8]-qw[1])/(qw[2]-qw[0]+.02) if qw is not None else torch.zeros_like(w)
    m,mr,w,wr=[t.clamp(-6,6) for t in (m,mr,w,wr)]
    m,mr,w,wr=m*(ms>.5),mr*(msr>.5),w*(cs>.5),wr*(csr>.5)
    def sm(x,s,sig): 
        k=(s>.5).float(); o=smooth(torch.cat([x*k,k]),sig); return o[:1]/o[1:].clamp(min=.05)
    masks=[(t>.5).float() for t in (ms,msr,cs,csr)]
    def sm4(sg):
        x=torch.cat([t*k for t,k in zip((m,mr,w,wr),masks)]+masks); n=x.shape[1:]
        if sg[0]>=4:
            f=4 if sg[0]>=8 else 2
            x=F.avg_pool3d(x[None],(f,f,1),ceil_mode=True,count_include_pad=False)[0]; x=smooth(x,(sg[0]/f,sg[1]/f,sg[2]))
            x=F.interpolate(x[None],size=[x.shape[1]*f,x.shape[2]*f,x.shape[3]],mode="trilinear")[0][:,:n[0],:n[1],:n[2]]
        else: x=smooth(x,sg)
        o=x[:4]/x[4:].clamp(min=.05); return [o[k:k+1] for k in range(4)]
    out=[m,w,mr,wr]; S={}
    for sig in (1.0,2.0,4.0,8.0):
        sg=(sig,sig,sig*2.5/sz)
        a,b,c,d=sm4(sg)
        S[sig]=(a,b,c,d)
        if sig<8: out+= [a,c,a-b,c-d]
        else: out+=[a,c]
    a1,b1,c1,d1=S[1.0]; a4,b4,c4,d4=S[4.0]; a2,b2,c2,d2=S[2.0]; a8=S[8.0][0]
    out+=[a1-a4,c1-c4,a2-a8, sm((m-a2)**2,ms,(1.5,1.5,1.5*2.5/sz)).sqrt(), sm((mr-b2)**2,msr,(1.5,1.5,1.5*2.5/sz)).sqrt()]
    out+=[v[10:11],v[11:12],v[12:13],v[8:9],sm(ms,torch.ones_like(ms),(3,3,3*2.5/sz))]
    f=torch.cat(out)
    sel=cen&(ms[0]>.5); g=[]
    if sel.sum()>50:
        qs=torch.quantile(m[0][sel],torch.tensor([.02,.1,.9,.98])); dq=torch.quantile((a1-b1)[0][sel],torch.tensor([.02,.1,.9,.98])); g+=qs.tolist()+dq.tolist()
        q8=torch.quantile((a2-b2)[0][sel],torch.tensor([.01,.99])); g+=q8.tolist()
    else: g+=[0.]*10
    sc=cen&(cs[0]>.5)
    if sc.sum()>50: g+=torch.quantile((c2-d2)[0][sc],torch.tensor([.02,.1,.9,.98])).tolist()
    else: g+=[0.]*4
    if sel.sum()>50 and sc.sum()>50:
        # what MRI is where the CT is like fluid, and like bone: contrast
        ct=v[1]; 
        for lo,hi in ((-1.4,-.8),(-.6,-.2),(.9,9)):
            z=(ct>lo)&(ct<hi)&(ms[0]>.5); g.append(float(m[0][z].mean()) if z.sum()>20 else 0.)
    else: g+=[0.]*3
    g+=[float((ms>.5).float().sum()/((ms>.5)|(cs>.5)).float().sum()), float(sel.sum()>50), float(sc.sum()>50), sz]
    # kurt/skew of MRI histogram: texture of contrast
    if sel.sum()>50: x=m[0][sel].clamp(-3,5); h=torch.histc(x,12,-3,5)/len(x); g+=h.tolist()
    else: g+=[0.]*12
    return f.half(), torch.tensor(g)
