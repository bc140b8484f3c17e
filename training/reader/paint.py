"""Endless reading views of painted heads."""
import os, sys, time, json, random
os.environ.setdefault("OMP_NUM_THREADS","1")
import numpy as np, torch
torch.set_num_threads(1)
from dataclasses import replace
from monai.transforms import Compose
from monai.bundle import ConfigParser
from roi_fusion.data.synthesis.geometry import draw_grid, draw_geometry, Grid
from roi_fusion.data.synthesis.anatomy import draw_anatomy
from roi_fusion.data.synthesis.contrast import draw_age, draw_contrast
from roi_fusion.data.synthesis.ct import paint_ct
from roi_fusion.data.synthesis.mri import paint_mri, stripped_brain
from roi_fusion.data.synthesis.heads import HeadMaps, choose_ids
from roi_fusion.data.synthesis.transforms import choose_lesions
from roi_fusion.data.augment import rigid_resample
from roi_fusion.core.lesion_reader import reading_view, reading_shape, _to_grid
from roi_fusion.data.grids import left_right_axis, spacing_of
from monai.data import MetaTensor

S="../shared/data/"
WINDOW=torch.tensor([-0.23,0.9])
NAMES=["dwi","adc","flair","t2","t1","free"]; P=[.18,.2,.17,.17,.16,.12]

def preprocessing():
    root="bundle/configs/"
    p=ConfigParser(); p.read_config([root+"train.json"]); 
    syn=json.load(open(root+"synthesis.json"))
    for k,v in syn.items():
        if k=="painting": p[k]=v[2:-2]   # without drawer, painter, facts, pad
        elif not k.startswith(("+","train#","validate#","synthesis","head_")): 
            if k not in("dataset_dir","initial_weights","imports"): p[k]=v
    p["bundle_root"]="bundle"
    p.parse()
    t=p.get_parsed_content("painting")
    return Compose(t)

def coarse_grid(rng, anatomy):
    g=draw_grid(rng, anatomy, 10**9)
    s=list(g.spacing_mm); shape=list(g.shape)
    plane=max(s[0], float(np.exp(rng.uniform(np.log(1.25),np.log(2.3)))))
    thick=max(s[2], float(rng.uniform(2.0,3.2)), plane if plane>s[2] else 0)
    ext=[a*b for a,b in zip(shape,s)]
    s=[plane,plane,thick]
    shape=[max(8,round(e/a)) for e,a in zip(ext,s)]; shape[2]=max(3,round(ext[2]/s[2]))
    return Grid(tuple(shape),tuple(s),g.orientation,g.centre_mm)

class Painter:
    def __init__(self, seed, heads, part="train", pool=120, uses=6.0):
        self.rng=np.random.default_rng(seed)
        self.maps=HeadMaps(S+"head_labels.npz"); self.ids=heads or choose_ids(self.maps,None,part)
        self.lesions=choose_lesions(S+"soop_lesions.npz",None,part)
        self.pre=preprocessing(); self.pool=[]; self.size=pool; self.uses=uses
    def geometry(self):
        rng=self.rng
        if len(self.pool)<4 or rng.random()<1/self.uses or (len(self.pool)<self.size and rng.random()<0.5):
            for _ in range(20):
                try:
                    a=draw_anatomy(rng,self.maps[str(rng.choice(self.ids))],self.lesions,0.15)
                    g=draw_geometry(rng,a,coarse_grid(rng,a))
                except Exception as e:
                    print("geometry:",e,flush=True); continue
                if int(g.brain.sum())>=1000: break
            if len(self.pool)>=self.size: self.pool.pop(int(rng.integers(self.size//2)))
            self.pool.append(g); return g
        return self.pool[int(rng.integers(len(self.pool)))]
    def __call__(self):
        rng=self.rng; g=self.geometry()
        kind=rng.random(); missing="ct" if kind<.3 else ("mri" if kind>.86 else "")
        age=draw_age(rng); name=str(rng.choice(NAMES,p=P))
        label,brain=g.truth,g.brain
        notes={}
        if missing=="mri": image=torch.zeros(g.truth.shape)
        else:
            image,notes,dist=paint_mri(rng,g,draw_contrast(rng,age,name=name,ct_seen=False),age)
            label=dist.apply(label)
            if missing=="ct": brain=dist.apply(brain)
            if rng.random()<.4:
                kept=stripped_brain(rng,g,dist)
                if int(kept.sum())>=256: image,label=image*kept,label*kept
        if missing=="ct": ct=torch.zeros(g.truth.shape)
        else:
            ct,_=paint_ct(rng,g,age,lesion_visible=True if missing=="mri" else None)
            if missing=="" and rng.random()<.8:
                m=float(rng.uniform(0.5,3.0))
                ct=rigid_resample(ct[None],g.grid.spacing_mm,np.deg2rad(rng.uniform(-1,1,3)*m/2),rng.uniform(-1,1,3)*m)[0]
        aff=torch.from_numpy(g.grid.affine); d={}
        for k,v in dict(image=image,ct=ct,label=label,brain=brain,bone=g.bone,interest=g.interest).items():
            d[k]=MetaTensor(v[None].clone(),affine=aff.clone())
        if missing!="ct": d["head"]=MetaTensor(g.head[None].clone(),affine=aff.clone())
        d.update(missing=missing,label_known=1.0,notes=g.notes,case="x")
        d=self.pre(d)
        pair=torch.cat([d["image"].as_tensor(),d["ct"].as_tensor()])[None].float()
        sp=[float(s) for s in spacing_of(d["image"])]
        v=reading_view(pair,WINDOW,sp,left_right_axis(d["image"].affine))
        shape=list(v.shape[2:])
        t=_to_grid(torch.stack([d["label"].as_tensor()[0].float(),d["brain"].as_tensor()[0].float()])[None],shape)
        return v[0].half(), t[0].half(), dict(contrast=notes.get("contrast","ct"),missing=missing,ml=float(g.lesion_ml),sp=sp)
if __name__=="__main__":
    p=Painter(1,None,pool=6)
    for k in range(14):
        t=time.time(); v,y,n=p(); print(round(time.time()-t,2),tuple(v.shape),n,float(y[0].sum()),flush=True)
        torch.save((v,y,n),f"training/reader/s{k}.pt")
